"""What the pictures are drawn from: real digits, and small networks trained on them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.data import load_digits

Batch = tuple[Tensor, Tensor]
Net = TypeVar("Net", bound=nn.Module)


@functools.cache
def batches(size: int = 64) -> list[Batch]:
    """The training digits, 8 by 8 pixels, in shuffled batches."""
    split = load_digits(size=8).train
    order = torch.randperm(len(split.inputs), generator=torch.Generator().manual_seed(0))
    return list(zip(split.inputs[order].split(size), split.labels[order].split(size), strict=True))


def steps(epochs: int) -> Iterator[Batch]:
    """The batches of so many epochs."""
    for _ in range(epochs):
        yield from batches()


def convolutional() -> nn.Sequential:
    """Two convolutions with batch norm and a linear layer, untrained."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def normless() -> nn.Sequential:
    """The two convolutions and the linear layer alone, untrained."""
    return nn.Sequential(
        *(part for part in convolutional() if not isinstance(part, nn.BatchNorm2d))
    )


def dense() -> nn.Sequential:
    """Three linear layers, untrained."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )


class Block(nn.Module):
    """Two convolutions with batch norm, and a shortcut around them."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, inner, 3, padding=1)
        self.norm = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.norm(self.first(x))))


class Residual(nn.Module):
    """A stem, three blocks on one residual stream, and a linear layer, untrained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 12, 3, stride=2, padding=1)
        self.block1, self.block2, self.block3 = Block(12, 24), Block(12, 16), Block(12, 8)
        self.out = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return self.out(torch.relu(x).mean((2, 3)))


def train(
    model: nn.Module,
    epochs: int,
    lr: float = 0.05,
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[], None] = lambda: None,
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Train on the digits by SGD, with what a method does before and after every step."""
    torch.manual_seed(1)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for images, labels in steps(epochs):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        before_step()
        optimizer.step()
        after_step()
    return model


@functools.cache
def _trained(make: Callable[[], Net]) -> nn.Module:
    return train(make(), epochs=4).eval()


def trained(make: Callable[[], Net] = convolutional) -> Net:  # type: ignore[assignment]
    """A copy of the network after four epochs."""
    return cast(Net, copy.deepcopy(_trained(make)))
