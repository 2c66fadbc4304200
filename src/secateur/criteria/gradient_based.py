"""What criteria on gradients share: their options, and which parameters count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from secateur.criteria.base import Kind, View
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.errors import InputError
from secateur.observing.reading import Reading, Receive

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["GradientCriterion", "check_count", "hand_over"]


class GradientCriterion(ElementwiseCriterion):
    """Base of criteria whose score of an element is a weight times a signal from data.

    All parameters share the unit of the loss, so the group view includes biases and the scales
    of normalisations, and scores compare across layers as they are.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which parameters count.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.
    """

    needs_data: ClassVar[bool] = True
    comparable: ClassVar[bool] = True
    additive = True

    def __init__(self, view: View = "group", max_batches: int | None = None) -> None:
        super().__init__(view)
        check_count(self.name, "max_batches", max_batches)
        self.max_batches = max_batches

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return self.view == "group" or member.role == self.view

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        assert grad is not None
        return weight.mul_(grad)


def check_count(criterion: str, option: str, value: int | None) -> None:
    """Refuse an option that counts something, if it is not at least 1."""
    if value is not None and (not isinstance(value, int) or value < 1):
        raise InputError(f"criterion {criterion!r}: {option} must be at least 1, not {value}")


def hand_over(
    reading: Reading,
    names: Iterable[str],
    signals: Mapping[str, Tensor | None],
    receive: Receive,
    after_batch: Callable[[], None],
) -> int:
    """Hand over what was accumulated, all at once; a name without a signal has zeros."""
    parameters = dict(reading.model.named_parameters())
    for name in names:
        if name in signals:
            receive(name, parameters[name].detach(), signals[name])
    after_batch()
    return 1
