"""Small nets and batches that recovery is tested on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Pairs = list[tuple[Tensor, Tensor]]


def images(count: int = 48, batch: int = 12, seed: int = 0) -> Pairs:
    """Three classes, told apart by which channel is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    inputs = torch.randn(count, 3, 6, 6, generator=generator)
    inputs[torch.arange(count), labels] += 1.0
    return [(inputs[i : i + batch], labels[i : i + batch]) for i in range(0, count, batch)]


class Residual(nn.Module):
    """Two convolutions and a way around them, then a concatenation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(torch.relu(self.norm(self.first(x))))
        return torch.cat([torch.relu(inner + x), x], dim=1)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def losses(history: Any) -> list[tuple[float, float | None, float | None]]:
    """What an epoch measured, without the time it took."""
    return [(epoch.loss, epoch.val_loss, epoch.val_accuracy) for epoch in history]
