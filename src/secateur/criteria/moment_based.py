"""What criteria on a layer's output share: moments of its inputs, and fitting what survives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

from torch import Tensor

from secateur.criteria.base import Criterion, View
from secateur.criteria.gradient_based import check_count, hand_over
from secateur.errors import InputError
from secateur.layerwise import Refit, Solver, Survivors
from secateur.observing import Reading, Receive
from secateur.observing.moments import Moments, second_moments
from secateur.weights import Weight

__all__ = ["POSITIONS", "MomentCriterion", "check_share"]

# Neighbouring places say much the same; He et al. 2017 take ten of an image.
POSITIONS = 100


class MomentCriterion(Criterion):
    """Base of criteria that ask what a layer's output loses, and may repair it afterwards.

    Parameters
    ----------
    update : bool
        Fit what survives to what the dense layer computed.
    sequential : bool
        Fit layers in the order in which they run, each on what the pruned layers before it
        produce; reads the data once per layer. False reads it once, on the dense inputs.
    positions : int or None
        Output positions of a convolution that count, of every sample, drawn at random; None takes
        all of them.
    view : {"group", "producer", "consumer"}
        Which weights count.
    max_batches : int or None
        How many batches to take from the data; None takes all of them.
    """

    needs_data: ClassVar[bool] = True
    asks_for: ClassVar[str] = "what the layers are given"

    def __init__(
        self,
        update: bool,
        sequential: bool,
        positions: int | None,
        view: View,
        max_batches: int | None,
    ) -> None:
        super().__init__(view)
        check_count(self.name, "max_batches", max_batches)
        check_count(self.name, "positions", positions)
        self.update, self.sequential = update, sequential
        self.positions, self.max_batches = positions, max_batches

    @property
    def updates(self) -> bool:
        return self.update

    @abstractmethod
    def signal(self, weight: Weight, matrix: Tensor, moments: Moments) -> Tensor:
        """What stands beside a weight.

        Parameters
        ----------
        weight : Weight
        matrix : Tensor, shape [groups, outputs of a group, kernel positions * inputs]
            Its entries.
        moments : Moments
            Of what it multiplies.

        Returns
        -------
        Tensor
            Of the parameter's shape, or, of a pairwise criterion, a matrix over its inputs.
        """

    @property
    @abstractmethod
    def solver(self) -> Solver:
        """How what survives is fitted."""

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        parameters = dict(reading.model.named_parameters())
        found = second_moments(reading, names, f"criterion {self.name!r}", self.positions)
        signals: dict[str, Tensor] = {}
        for name in names:
            moments = found.pop(name)
            assert moments.weight is not None
            matrix = moments.weight.matrix(parameters[name].detach()).to(moments.inputs.dtype)
            signals[name] = self.signal(moments.weight, matrix, moments)
        return hand_over(reading, names, signals, receive, after_batch)

    def refit(self, survivors: Survivors) -> list[Refit]:
        return survivors.reconstruct(
            self.solver, sequential=self.sequential, positions=self.positions
        )


def check_share(criterion: str, option: str, value: float) -> None:
    """Refuse an option that is a share of something, if it is not above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InputError(f"criterion {criterion!r}: {option} must be above 0, not {value!r}")
