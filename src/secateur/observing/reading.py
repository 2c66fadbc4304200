"""What a criterion reads: one order for a pass over data, and who receives what it finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import CriterionError, InputError
from secateur.inputs import Inputs
from secateur.observing.batches import Loss, read_batch

__all__ = ["Progress", "Reading", "Receive", "finite_loss"]

Progress = Callable[[int, "int | None"], None]

Receive = Callable[[str, Tensor, "Tensor | None"], None]
"""``(name, parameter, signal)``. A signal is what stands beside a weight in the score: a tensor of
its shape, or one number per channel; None where there is nothing to measure."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """One pass over data, as a criterion is asked to make it.

    Attributes
    ----------
    model : nn.Module
    data : iterable of batches
        See `read_batch`.
    inputs : Inputs or None
        The example inputs, for criteria that need no data.
    loss : callable or None
        ``loss(outputs, targets) -> scalar``; None for `default_loss`.
    max_batches : int or None
        Stop after so many batches.
    seed : int
        Seeds torch's generators for the data loader and any randomness in the model.
    progress : callable or None
        ``(batches done, batches in all or None)``.
    """

    model: nn.Module
    data: Iterable[Any] = ()
    inputs: Inputs | None = None
    loss: Loss | None = None
    max_batches: int | None = None
    seed: int = 0
    progress: Progress | None = None

    def batches(self) -> Iterator[tuple[Inputs, Any]]:
        """Inputs and targets of every batch; tells the progress once a batch is dealt with.

        Raises
        ------
        InputError
            When there is no batch, or one of another form.

        Examples
        --------
        >>> reading = Reading(nn.Linear(1, 1), [(torch.zeros(2, 1), None)] * 3, max_batches=2)
        >>> len(list(reading.batches()))
        2
        """
        device = next((p.device for p in self.model.parameters()), None)
        total = _length(self.data)
        if self.max_batches is not None:
            total = self.max_batches if total is None else min(total, self.max_batches)
        done = 0
        for batch in self.data:
            yield read_batch(batch, device)
            done += 1
            if self.progress is not None:
                self.progress(done, total)
            if done == self.max_batches:
                break
        if done == 0:
            raise InputError(
                "data has no batch; pass an iterable of (inputs, targets) batches that can be "
                "iterated again, such as a DataLoader or a list"
            )


def finite_loss(value: Tensor, done: int) -> Tensor:
    """Return the loss.

    Raises
    ------
    CriterionError
        When it is not finite.
    """
    if not torch.isfinite(value):
        raise CriterionError(
            f"the loss of batch {done} is {value.item()}; check the data, or the model's precision"
        )
    return value


def _length(data: Iterable[Any]) -> int | None:
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None
