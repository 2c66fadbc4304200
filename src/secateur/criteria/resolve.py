"""From what users write (a name, an object, a function) to a criterion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur import specs
from secateur.criteria.base import CRITERIA, Criterion, Kind
from secateur.errors import InputError

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["FunctionCriterion", "as_criterion"]


class FunctionCriterion(Criterion):
    """A plain function ``(weight [n, rest]) -> [n]`` as a criterion, on the group view.

    The function gets a float32 (or float64) tensor with one row per unit and returns one score
    per row, lower goes first; scores are added up over the weights of a group.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)  # type: ignore[misc]
        super().__init__()

    def member_scores(
        self, member: Member, weight: Tensor, grad: Tensor | None, kind: Kind
    ) -> Tensor | None:
        scores = self.function(weight)
        return None if scores is None else torch.as_tensor(scores)

    @property
    def spec(self) -> str:
        return self.name


def as_criterion(
    criterion: str | Criterion | type[Criterion] | Callable[[Tensor], Any],
) -> Criterion:
    """Return the criterion meant.

    Parameters
    ----------
    criterion : str, Criterion or callable
        A registered name, with options if need be (``"taylor:reduction=square_of_sum"``); a
        `Criterion`; or a function ``(weight [n, rest]) -> [n]``.

    Raises
    ------
    UnknownNameError
        For a name or option that is not known; the message suggests the nearest.
    InputError
        For anything else.

    Examples
    --------
    >>> as_criterion("l1:view=producer").view
    'producer'
    >>> as_criterion(lambda weight: weight.amax(dim=1)).name
    '<lambda>'
    """
    if isinstance(criterion, str):
        return specs.build(CRITERIA, criterion)
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, type) and issubclass(criterion, Criterion):
        return criterion()
    if callable(criterion):
        return FunctionCriterion(criterion)
    raise InputError(
        "criterion must be a name, a Criterion or a function (weight [n, rest]) -> [n], "
        f"not {type(criterion).__name__}"
    )
