"""One update of the weights: a few batches forward and backward, and a step of the optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.inputs import Inputs, named_tensors
from secateur.observing.batches import Loss, batch_loss, read_batch
from secateur.recover.batches import device_of, forward
from secateur.recover.evaluate import Tally
from secateur.recover.settings import Settings
from secateur.recover.teaching import Teaching

__all__ = ["Stepper", "grouped"]


class Stepper:
    """Makes the updates of one run.

    Parameters
    ----------
    model : torch.nn.Module
    loss : callable or None
        A mean over the batch.
    engine : torch.optim.Optimizer
    settings : Settings
    teaching : Teaching, optional
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | None,
        engine: torch.optim.Optimizer,
        settings: Settings,
        teaching: Teaching | None = None,
    ) -> None:
        self.model, self.engine, self.settings = model, engine, settings
        self._loss, self._teaching = loss, teaching
        self._device = device_of(model)

    def step(self, batches: list[Any], tally: Tally) -> None:
        """Update the weights by the gradient of the mean loss over all examples of some batches.

        Raises
        ------
        InputError
            When the model rejects a batch, or the loss is not finite; the weights are then those
            of the step before.
        """
        self.engine.zero_grad(set_to_none=True)
        # A mean of means is the mean over all only if each counts by its examples.
        sizes = [_size(batch) for batch in batches] if len(batches) > 1 else [1]
        for batch, size in zip(batches, sizes, strict=True):
            self._backward(batch, size / sum(sizes), tally)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.engine.step()
        if self._teaching is not None:
            self._teaching.step()

    def _backward(self, batch: Any, share: float, tally: Tally) -> None:
        inputs, targets = read_batch(batch, self._device)
        if self.settings.channels_last:
            inputs = inputs.replaced(_channels_last)
        watching = contextlib.nullcontext() if self._teaching is None else self._teaching.watching()
        with watching:
            with self._autocast():
                output = forward(self.model, inputs)
                value = self._objective(inputs, output, targets)
            if not bool(torch.isfinite(value.detach())):
                raise InputError(
                    f"the training loss is {float(value.detach())}: lower lr, set clip_norm, "
                    "or look for NaN in the data or weights"
                )
            (value if share == 1 else value * share).backward()
        tally.add(float(value.detach()), output, targets)

    def _objective(self, inputs: Inputs, output: Any, targets: Any) -> Tensor:
        if self._teaching is None:
            return batch_loss(output, targets, self._loss)
        return self._teaching.loss(
            inputs, output, targets, lambda: batch_loss(output, targets, self._loss)
        )

    def _autocast(self) -> Any:
        if not self.settings.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)


def grouped(batches: Iterable[Any], count: int) -> Iterator[list[Any]]:
    """Batches by so many; the last group may be smaller.

    Examples
    --------
    >>> list(grouped("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


def _size(batch: Any) -> int:
    """Examples in a batch: the first dimension of its first input."""
    inputs: Inputs = read_batch(batch)[0]
    for _, tensor in named_tensors((inputs.args, inputs.kwargs)):
        if tensor.ndim:
            return len(tensor)
    return 1


def _channels_last(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)
