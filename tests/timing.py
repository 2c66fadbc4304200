"""Nets and clocks that are made up, for tests of latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import secateur as sc
from secateur.latency import Operation
from secateur.profiling import Timing

X = torch.randn(2, 3, 6, 6)


Law = Callable[[str, tuple[int, ...]], float]


class Clock:
    """A timer by a law: ``law(kind, sizes) -> ms``; knows what it was asked."""

    def __init__(self, law: Law, jitter: float = 0.0) -> None:
        self.law, self.jitter = law, jitter
        self.asked: list[str] = []

    def __call__(self, operation: Operation, points: Sequence[tuple[int, ...]]) -> list[Timing]:
        self.asked.append(operation.key)
        return [self.timing(self.law(operation.kind, sizes), at) for at, sizes in enumerate(points)]

    def timing(self, ms: float, at: int) -> Timing:
        off = self.jitter * (-1) ** at
        return Timing("", tuple(ms * (1 + off + self.jitter * turn) for turn in (-1, 0, 1)))


def chain(*widths: int) -> nn.Module:
    """Convolutions of these widths, and a head."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 5))


def tiles(size: int, tile: int) -> int:
    return -(-size // tile)


def staircase(tile: int) -> Law:
    """Only convolutions take time: that of all tiles of their outputs and inputs."""

    def law(kind: str, sizes: tuple[int, ...]) -> float:
        if kind != "convolution":
            return 0.0
        return float(tiles(sizes[1], tile) * tiles(sizes[2], tile))

    return law


def table_of(net: nn.Module, law: Law, **options: Any) -> sc.LatencyTable:
    return sc.LatencyTable.measure(net, X, timer=Clock(law), **options)
