"""What criteria share that score single weights by what a layer's output loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.criteria.base import Criterion, Kind, View
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.criteria.moment_based import POSITIONS, MomentCriterion, check_share
from secateur.layerwise import Solver, refit_weights
from secateur.observing.moments import Moments
from secateur.weights import Weight

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["LayerwiseCriterion", "columns_as"]


class LayerwiseCriterion(MomentCriterion, ElementwiseCriterion):
    """Base of criteria on single weights and the error of their layer's output.

    Parameters
    ----------
    damp : float, default 0.01
        Share of the mean diagonal that is added to the Hessian's diagonal; in the update, how
        strongly weights are held where they are.
    update, sequential : bool, default True
    positions : int or None, default 100
    view : {"group", "producer", "consumer"}, default "group"
    max_batches : int or None, default None
        See `MomentCriterion`.
    """

    def __init__(
        self,
        damp: float = 0.01,
        update: bool = True,
        sequential: bool = True,
        positions: int | None = POSITIONS,
        view: View = "group",
        max_batches: int | None = None,
    ) -> None:
        super().__init__(update, sequential, positions, view, max_batches)
        check_share(self.name, "damp", damp)
        self.damp = damp

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        # An embedding multiplies nothing.
        return kind != "embedding" and Criterion.looks_at(self, member, shape, kind)

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        # What `stream` hands over is the score; never negative.
        assert grad is not None
        return grad.abs_()

    @property
    def solver(self) -> Solver:
        def solve(
            weight: Weight, moments: Moments, matrix: Tensor, mask: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            return refit_weights(moments, matrix, mask, self.damp), mask

        return solve


def columns_as(weight: Weight, matrix: Tensor, columns: Tensor) -> Tensor:
    """``matrix² * columns`` as the module stores the weight; `columns` is ``[groups, d]``."""
    scores = matrix.double().square() * columns[:, None].double()
    return weight.from_matrix(scores).to(torch.promote_types(matrix.dtype, torch.float32))
