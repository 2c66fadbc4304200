"""One update of the weights: a few batches forward and backward, and a step of the optimizer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.inputs import Inputs
from secateur.observing.batches import Loss, batch_loss
from secateur.recover.batches import device_of, forward
from secateur.recover.evaluate import Tally, counted
from secateur.recover.rows import examples_in_batch
from secateur.recover.settings import Settings
from secateur.recover.spreading import Spread
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
    spread : Spread, optional
        The processes that compute each batch together; this one alone if not given.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | None,
        engine: torch.optim.Optimizer,
        settings: Settings,
        teaching: Teaching | None = None,
        spread: Spread | None = None,
    ) -> None:
        self.spread = Spread(model) if spread is None else spread
        self.steps = 0
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
        sizes = [examples_in_batch(batch) for batch in batches] if len(batches) > 1 else [1]
        for number, (batch, size) in enumerate(zip(batches, sizes, strict=True), 1):
            self._backward(batch, size / sum(sizes), tally, last=number == len(batches))
        self.spread.mask_gradients()
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.spread.network.parameters(), self.settings.clip_norm)
        self.engine.step()
        self.spread.mask_weights()
        self.steps += 1
        if self._teaching is not None:
            self._teaching.step()

    def _backward(self, batch: Any, share: float, tally: Tally, *, last: bool) -> None:
        inputs, targets, own = self.spread.read(batch, self._device)
        if self.settings.channels_last:
            inputs = inputs.replaced(_channels_last)
        ranks = self.spread.ranks
        watching = contextlib.nullcontext() if self._teaching is None else self._teaching.watching()
        with self.spread.computing(own, last=last, at=self.steps):
            with watching, self._autocast():
                output = forward(self.spread.network, inputs)
                value = self._objective(inputs, output, targets)
            counts = counted(float(value.detach()), output, targets)
            if ranks.size > 1:
                # What one process finds wrong, all of them have to.
                counts = ranks.sums(counts if own else [0.0] * len(counts))
            loss = counts[0] / counts[1]
            if not math.isfinite(loss):
                raise InputError(
                    f"the training loss is {loss}: lower lr, set clip_norm, "
                    "or look for NaN in the data or weights"
                )
            # Replicas average their gradients: a share of the sum is so many times that of one.
            weight = share * own * ranks.size
            (value if weight == 1 else value * weight).backward()
        tally.include(counts)

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


def _channels_last(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)
