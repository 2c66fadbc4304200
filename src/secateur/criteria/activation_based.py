"""What criteria on activations share: where they measure, and means over data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.base import Criterion, Kind
from secateur.criteria.gradient_based import check_count, hand_over
from secateur.observing.following import Follower
from secateur.observing.reading import Reading, Receive
from secateur.observing.standins import forward, standing_in

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["ActivationCriterion", "Tally", "channels_first"]


class Tally:
    """Sums per channel over data, for every weight: at its output, and behind its activation."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, bool], tuple[Tensor, int]] = {}

    def wants(self, name: str, activated: bool) -> bool:
        """Whether a measurement still counts: not that of an output once there is a better one."""
        return activated or (name, True) not in self._sums

    def add(self, name: str, activated: bool, sums: Tensor, count: int) -> None:
        before, counted = self._sums.get((name, activated), (torch.zeros_like(sums), 0))
        if before.shape == sums.shape:
            self._sums[name, activated] = (before + sums, counted + count)

    def means(self, names: Iterable[str]) -> dict[str, Tensor | None]:
        """A mean per channel, behind the activation where there is one; None where unmeasured."""
        found: dict[str, Tensor | None] = {}
        for name in names:
            best = self._sums.get((name, True)) or self._sums.get((name, False))
            found[name] = None if best is None or not best[1] else best[0] / best[1]
        return found


class ActivationCriterion(Criterion):
    """Base of criteria that measure what a channel is, over data.

    **Where.** At the output of the first activation (ReLU, GELU and their like) behind the layer
    that computes the channel, found by following the operations that run through normalisations,
    sums and other operations that leave channels in their place: behind the addition in a
    residual block, whatever the order of modules. A layer without one before its output is mixed
    with others is measured at its own output. In eval mode. A channel that several layers
    compute, as on a residual stream, takes the mean of their measurements.

    Parameters
    ----------
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.
    """

    needs_data: ClassVar[bool] = True
    reads_weights: ClassVar[bool] = False
    asks_for: ClassVar[str] = "the outputs of layers"
    unjudged: ClassVar[str] = "no output of a layer that could be followed to an activation"
    additive = True

    def __init__(self, max_batches: int | None = None) -> None:
        super().__init__("producer")
        check_count(self.name, "max_batches", max_batches)
        self.max_batches = max_batches

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return kind != "recurrent" and super().looks_at(member, shape, kind)

    @abstractmethod
    def measure(self, values: Tensor) -> tuple[Tensor, int] | None:
        """Measure one batch.

        Parameters
        ----------
        values : Tensor of float32 or float64, shape [samples, channels, *places]

        Returns
        -------
        (Tensor of shape [channels], int) or None
            Sums over the batch and what to divide them by, once those of all batches are added;
            None where the measure is not defined for values of this shape.
        """

    def member_scores(
        self, member: Member, weight: Tensor, grad: Tensor | None, kind: Kind
    ) -> Tensor | None:
        # Channels of a grouped, transposed layer do not lie along one dimension of its weight.
        return None if grad is None or len(grad) != len(member.classes) else grad[:, 0]

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return sums / np.maximum(counts, 1)

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names, tally = list(names), Tally()

        def found(name: str, values: Tensor, dim: int, activated: bool) -> None:
            if tally.wants(name, activated):
                measured = self.measure(channels_first(values, dim))
                if measured is not None:
                    tally.add(name, activated, *measured)

        with standing_in(reading.model, reading.seed) as stand_ins, torch.no_grad():
            for inputs, _ in reading.batches():
                follower = Follower(reading.model, inputs, names, found, stand_ins)
                with follower.watching():
                    forward(reading.model, stand_ins, inputs)
        return hand_over(reading, names, tally.means(names), receive, after_batch)


def channels_first(values: Tensor, dim: int) -> Tensor:
    """Values as ``[samples, channels, *places]``, in float32 or better.

    Examples
    --------
    >>> channels_first(torch.zeros(2, 7, 5), 2).shape
    torch.Size([2, 5, 7])
    """
    values = values.detach()
    if values.dtype != torch.float64:
        values = values.float()
    return values.movedim(dim, 0)[None] if dim == 0 else values.movedim(dim, 1)
