"""The optimizer, and its learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.recover.settings import Settings

__all__ = ["Rates", "make_optimizer"]

OPTIMIZERS = ("sgd", "adamw")


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer, with biases and norms left out of the weight decay.

    Raises
    ------
    InputError
        When nothing can be trained.
    UnknownNameError
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("no parameter of the model has requires_grad; there is nothing to train")
    name = settings.optimizer
    if isinstance(name, torch.optim.Optimizer):
        return name
    groups = [
        {
            "params": [p for p in trainable if p.ndim > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    raise UnknownNameError(f"unknown optimizer {name!r}{suggestion(name, OPTIMIZERS)}")


class Rates:
    """Learning rates of an optimizer's groups, each from its own peak.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    schedule : {"cosine", "constant"}
    warmup : float
        Fraction of all steps in which the rates rise.

    Examples
    --------
    >>> engine = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    >>> rates = Rates(engine, "cosine", warmup=0.0)
    >>> with rates.restored():
    ...     rates.set(at=0.5)
    ...     rates.first
    0.1
    >>> rates.first
    0.2
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: str, warmup: float) -> None:
        self.optimizer, self.schedule, self.warmup = optimizer, schedule, warmup
        self._peaks = [group["lr"] for group in optimizer.param_groups]

    @property
    def first(self) -> float:
        """The first group's rate now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set(self, at: float) -> None:
        """Take the rates of the step that begins ``at`` this fraction of all steps."""
        self._scale(self._factor(at))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Put the peaks back afterwards, so that the optimizer can be trained with again."""
        try:
            yield
        finally:
            self._scale(1.0)

    def _scale(self, factor: float) -> None:
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor

    def _factor(self, at: float) -> float:
        if at < self.warmup:
            # Half-open steps: the first step must not have rate 0, which would waste it.
            return max(at / self.warmup, 0.01)
        if self.schedule == "constant" or self.warmup >= 1:
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (at - self.warmup) / (1.0 - self.warmup)))
