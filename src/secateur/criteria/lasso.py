"""Channel pruning by LASSO regression, with least squares for what survives."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA
from secateur.criteria.contributing import ContributionCriterion
from secateur.layerwise import Solver, refit_weights, vanishing_penalties
from secateur.observing.moments import Moments
from secateur.weights import Weight

__all__ = ["Lasso"]


@CRITERIA.register("lasso")
class Lasso(ContributionCriterion):
    """Penalty at which the LASSO lets go of a channel, on the next layer's output.

    He, Zhang and Sun 2017 (arXiv:1707.06168). With β_c a factor on what channel c contributes to
    the output Y of the layer that reads it, ``½ E‖Y − Σ_c β_c X_c W_cᵀ‖² + λ ‖β‖₁`` is minimised
    while λ rises: the score is the λ from which on β_c is zero, as a share of that at which all
    are. Taking the lowest scores is raising λ until as many channels remain as the budget allows.

    What survives is then fitted by least squares, whole kernels, to what the dense layer computed:
    layer after layer, on the pruned layers' outputs, without the bias.

    Parameters
    ----------
    ridge : float, default 0.01
        Holds weights where they are, as a share of the inputs' mean square: with few rows of data
        least squares would fit noise.
    update : bool, default True
        Fit what survives.
    sequential : bool, default True
        Fit each layer on what the pruned layers before it produce; reads the data once per layer.
    positions : int or None, default 100
        Output positions of a convolution that count, of every sample, drawn at random; None takes
        all of them.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    Channel 1 does what channel 0 does, half as strongly, so it goes before channel 2:

    >>> x = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.9]])
    >>> Lasso().scores(x.T @ x).argsort()
    array([1, 2, 0])
    """

    name = "lasso"

    def scores(self, gram: np.ndarray) -> np.ndarray:
        return vanishing_penalties(gram)

    @property
    def solver(self) -> Solver:
        def solve(
            weight: Weight, moments: Moments, matrix: Tensor, mask: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            return refit_weights(moments, matrix, mask, self.ridge), mask

        return solve
