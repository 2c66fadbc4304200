"""First-order Taylor: the change of the loss when a unit becomes zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA, Kind, View
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.errors import InputError, suggestion

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["Reduction", "Taylor"]

Reduction = Literal["sum_of_squares", "square_of_sum"]


@CRITERIA.register("taylor")
class Taylor(ElementwiseCriterion):
    """First-order estimate of the change in the loss, from gradients over data.

    Molchanov et al. 2019 (arXiv:1906.10771). With weight w and gradient g of the loss of one
    batch, both reductions are averaged over the batches:

    - ``"sum_of_squares"``: Σ (g w)² over the unit's parameters, each taken alone;
    - ``"square_of_sum"``: (Σ g w)², the squared change when the whole unit becomes zero.

    They rank differently: in the second, parameters that cancel each other count as nothing.
    The loss of a batch is a mean, so the batch size matters: the square is taken per batch.
    Batch norm and dropout run in eval mode; frozen parameters get gradients too. The scores are
    changes of one loss, so they compare across groups as they are.

    Parameters
    ----------
    reduction : {"sum_of_squares", "square_of_sum"}, default "sum_of_squares"
        How the parameters of a unit are put together.
    view : {"group", "producer", "consumer"}, default "group"
        Which parameters count. All of them share the unit of the loss, so ``"group"`` here
        includes biases and the scales of normalisations.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.
    """

    name = "taylor"
    needs_data = True
    comparable = True

    def __init__(
        self,
        reduction: Reduction = "sum_of_squares",
        view: View = "group",
        max_batches: int | None = None,
    ) -> None:
        super().__init__(view)
        if reduction not in get_args(Reduction):
            raise InputError(
                f"criterion 'taylor': unknown reduction {reduction!r}"
                + suggestion(str(reduction), get_args(Reduction))
            )
        if max_batches is not None and max_batches < 1:
            raise InputError(
                f"criterion 'taylor': max_batches must be at least 1, not {max_batches}"
            )
        self.reduction = reduction
        self.max_batches = max_batches

    @property
    def additive(self) -> bool:  # type: ignore[override]
        return self.reduction == "sum_of_squares"

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return self.view == "group" or member.role == self.view

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        assert grad is not None
        products = weight.mul_(grad)
        return products.square_() if self.reduction == "sum_of_squares" else products

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return sums if self.reduction == "sum_of_squares" else np.square(sums)
