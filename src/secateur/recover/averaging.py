"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from secateur.recover.contents import contents, copied, put_back

__all__ = ["Average"]


class Average:
    """Floating-point parameters and buffers of a model, averaged over the steps.

    After step t the average moves to the weights by ``1 - min(decay, (1 + t) / (10 + t))``. Short
    runs would hold the weights from before training otherwise: 0.999 remembers a thousand steps.

    Parameters
    ----------
    model : torch.nn.Module
    decay : float

    Examples
    --------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.fill_(0.0)
    ...     average = Average(layer, 0.999)
    ...     _ = layer.weight.fill_(11.0)
    >>> average.update()
    >>> with average.in_place():
    ...     layer.weight.item()
    9.0
    >>> layer.weight.item()
    11.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        # Half precision cannot hold steps of a thousandth.
        self._values = {
            name: tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in contents(model).items()
            if tensor.is_floating_point() or tensor.is_complex()
        }

    def update(self) -> None:
        """Take one step's weights in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        live = contents(self.model)
        values = list(self._values.values())
        taken = [live[name].to(value.dtype) for name, value in self._values.items()]
        torch._foreach_lerp_(values, taken, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the averages inside, and what is done to its buffers stays with them."""
        live = copied(self.model)
        try:
            self.take()
            yield
            for name, buffer in self.model.named_buffers():
                if name in self._values:
                    self._values[name].copy_(buffer)
        finally:
            put_back(self.model, live)

    def take(self) -> None:
        """Leave the averages in the model."""
        put_back(self.model, self._values)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; `load` takes it back."""
        return {"steps": self.steps, "values": self._values}

    def load(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, value in self._values.items():
            value.copy_(state["values"][name])
