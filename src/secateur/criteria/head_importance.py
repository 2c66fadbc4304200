"""Head importance: how much the loss of one example feels what a head contributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA, Criterion, Kind
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.criteria.gradient_based import check_count
from secateur.criteria.gradients import stream_gradients
from secateur.criteria.means import Samples
from secateur.observing.reading import Reading, Receive

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["HeadImportance"]


@CRITERIA.register("head_importance")
class HeadImportance(ElementwiseCriterion):
    r"""Sensitivity of the loss to a gate on a unit's output, \|∂L/∂ξ\|, example by example.

    Michel et al. 2019 (arXiv:1905.10650): with ξ_h multiplying the output A_h of head h,
    I_h = E_x\|A_hᵀ ∂L/∂A_h\|. The absolute value is taken for every example before averaging, so
    that examples which want a head more and less do not cancel. As the gate stands before the
    weights W that read the head, A_hᵀ ∂L/∂A_h = Σ W_h ∂L/∂W_h, which is how it is computed here:
    the score is defined for every unit that weights read, heads as well as inner features.

    The paper divides by the L2 norm of each layer before it ranks all heads; here the allocation
    makes layers comparable (``global`` by the mean of each).

    Parameters
    ----------
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them. Every sample of them is
        run on its own.
    """

    name = "head_importance"
    needs_data = True

    def __init__(self, max_batches: int | None = None) -> None:
        super().__init__("consumer")
        check_count(self.name, "max_batches", max_batches)
        self.max_batches = max_batches

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return kind != "embedding" and Criterion.looks_at(self, member, shape, kind)

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        assert grad is not None
        return weight.mul_(grad)

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.abs(sums)

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        return stream_gradients(
            reading.model,
            names,
            Samples(reading),
            receive,
            after_batch=after_batch,
            loss=reading.loss,
            seed=reading.seed,
        )
