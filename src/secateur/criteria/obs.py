"""Optimal brain surgeon, layer by layer: what a weight costs once the others made up for it."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.base import CRITERIA, View
from secateur.criteria.layerwise_based import LayerwiseCriterion, columns_as
from secateur.criteria.moment_based import POSITIONS
from secateur.layerwise import damped, inverse, removal_costs
from secateur.observing.moments import Moments
from secateur.weights import Weight

__all__ = ["OBS"]


@CRITERIA.register("obs")
class OBS(LayerwiseCriterion):
    r"""Least rise of the layer's squared error when a weight goes and the others make up for it.

    Hassibi and Stork 1993 (Optimal Brain Surgeon), on the error of one layer's output as in Dong
    et al. 2017 (arXiv:1705.07565) and Frantar et al. 2022 (arXiv:2208.11580): the error is
    quadratic in the weights of an output, with the Hessian ``H = 2 E[x xᵀ]`` of the layer's inputs,
    so the score ``w² / (2 [H⁻¹]_qq)`` is exact for one weight. It is never above optimal brain
    damage's ½ H_qq w², which leaves the others as they are. A unit's score is the mean over its
    entries, a channel's the sum over the weights in the view.

    What survives is then fitted to what the dense layer computed, for all that went at once:
    ``δw = −H⁻¹[:, M] (H⁻¹[M, M])⁻¹ w[M]``, layer after layer on the pruned layers' outputs.
    ``result.refits`` says what that gained on held-out rows.

    Parameters
    ----------
    greedy : bool, default False
        Score the weights of an output in the order in which they go, each after the others have
        made up for those before (Optimal Brain Compression). Takes time of order
        outputs · inputs³.
    damp : float, default 0.01
        Share of the mean diagonal added to the Hessian's diagonal.
    update : bool, default True
        Fit what survives.
    sequential : bool, default True
        Fit each layer on what the pruned layers before it produce; reads the data once per layer.
    view : {"group", "producer", "consumer"}, default "group"
        Which weights count.
    positions : int or None, default 100
        Output positions of a convolution that count, of every sample, drawn at random; None takes
        all of them.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    With H = [[2, 1], [1, 2]], the weight 1 costs 0.75, and 1.5 costs 1.6875:

    >>> from secateur.weights import Weight
    >>> x = torch.linalg.cholesky(torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()).T[:, None]
    >>> moments = Moments.of(x)
    >>> moments.add(x)
    >>> moments.rows = 1
    >>> matrix = torch.tensor([[[1.0, 1.5]]])
    >>> OBS(damp=1e-12).signal(Weight("weight", (1, 2)), matrix, moments)
    tensor([[0.7500, 1.6875]])
    """

    name = "obs"

    def __init__(
        self,
        greedy: bool = False,
        damp: float = 0.01,
        update: bool = True,
        sequential: bool = True,
        positions: int | None = POSITIONS,
        view: View = "group",
        max_batches: int | None = None,
    ) -> None:
        super().__init__(damp, update, sequential, positions, view, max_batches)
        self.greedy = greedy

    def signal(self, weight: Weight, matrix: Tensor, moments: Moments) -> Tensor:
        # The error is the mean over rows of (y - W x)², so H is twice the mean of x xᵀ.
        inverted = inverse(damped(moments, self.damp))
        if self.greedy:
            costs = removal_costs(matrix, inverted)
            return weight.from_matrix(costs).to(torch.promote_types(matrix.dtype, torch.float32))
        return columns_as(weight, matrix, 1 / inverted.diagonal(dim1=1, dim2=2))
