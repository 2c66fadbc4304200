"""ThiNet: leave out the inputs that the next layer's output misses least."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA
from secateur.criteria.contributing import ContributionCriterion
from secateur.layerwise import Solver, inputs_by_error, refit_scales
from secateur.observing.moments import Moments
from secateur.weights import Weight

__all__ = ["ThiNet"]

# Each step of the order counts, however little the error rises.
RISE = 1e-9


@CRITERIA.register("thinet")
class ThiNet(ContributionCriterion):
    """Error of the next layer's output when a channel's turn to go comes, greedily.

    Luo, Wu and Lin 2017 (arXiv:1707.06342). The set of removed channels T grows by the one with
    which ``E(Σ_{c in T} x̂_c)²`` is least, where x̂_c is what channel c contributes to the output of
    the layer that reads it, without its bias; a channel's score is the highest share of the
    output's energy missed up to its turn. The paper samples outputs and places; here all of them
    count, streamed as one matrix of channels by channels.

    What survives is then scaled, one factor per channel, by least squares on what the dense layer
    computed: layer after layer, on the pruned layers' outputs.

    Parameters
    ----------
    ridge : float, default 0.01
        Holds the factors near one, as a share of the mean energy that a channel contributes.
    update : bool, default True
        Scale what survives.
    sequential : bool, default True
        Fit each layer on what the pruned layers before it produce; reads the data once per layer.
    positions : int or None, default 100
        Output positions of a convolution that count, of every sample, drawn at random; None takes
        all of them.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    Channels 0 and 1 cancel each other, so both can go before channel 2, which is smaller:

    >>> gram = np.array([[4.0, -4.0, 0.0], [-4.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    >>> ThiNet().scores(gram).argsort()
    array([2, 0, 1])
    """

    name = "thinet"

    def scores(self, gram: np.ndarray) -> np.ndarray:
        order, errors = inputs_by_error(gram)
        rising = np.maximum.accumulate(errors) + RISE * np.arange(len(errors))
        scores = np.empty(len(errors))
        scores[order] = rising
        return scores

    @property
    def solver(self) -> Solver:
        def solve(
            weight: Weight, moments: Moments, matrix: Tensor, mask: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            return refit_scales(moments, matrix, weight.canonical_shape[1], self.ridge), mask

        return solve
