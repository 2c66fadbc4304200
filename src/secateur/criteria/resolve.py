"""From what users write (a name, an object, a function) to a criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur import specs
from secateur.criteria.base import CRITERIA, Criterion, Kind
from secateur.errors import InputError
from secateur.inputs import ExampleInputs, as_inputs
from secateur.observing.batches import Loss
from secateur.observing.reading import Progress, Reading

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["FunctionCriterion", "as_criterion", "reading_for"]


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


def reading_for(
    criterion: Criterion,
    model: nn.Module,
    data: Iterable[Any] | None,
    inputs: ExampleInputs | None,
    loss: Loss | None,
    seed: int,
    progress: Progress | None,
) -> Reading:
    """Put together what a criterion may read.

    Raises
    ------
    InputError
        When the data or the inputs that it needs are missing.
    """
    if criterion.needs_data and data is None:
        raise InputError(
            f"criterion {criterion.name!r} needs {criterion.asks_for}: pass data=, an iterable of "
            "(inputs, targets) batches, or of dicts for models that return a loss"
        )
    if criterion.needs_inputs and inputs is None:
        raise InputError(
            f"criterion {criterion.name!r} runs the model without data: pass inputs=, the "
            "example inputs"
        )
    return Reading(
        model,
        () if data is None else data,
        None if inputs is None else as_inputs(inputs),
        loss,
        getattr(criterion, "max_batches", None),
        seed,
        progress,
    )
