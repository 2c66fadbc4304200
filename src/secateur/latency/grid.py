"""Latencies at a grid of sizes, and in between."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from secateur.latency.operations import Sizes

__all__ = ["Grid", "axes_of", "stops"]

MOST_POINTS = 256


def stops(size: int, points: int) -> list[int]:
    """Sizes to measure up to a dense one: both ends of every step of a power of two.

    Hardware works in tiles of 8, 16 or 64, so that a latency that climbs in steps does so right
    after a multiple of a power of two; between the ends of a step it is flat.

    Parameters
    ----------
    size : int
        The dense size, the last of them.
    points : int
        At most so many steps.

    Examples
    --------
    >>> stops(64, 4), stops(20, 4), stops(3, 4), stops(1, 4)
    ([1, 16, 17, 32, 33, 48, 49, 64], [1, 8, 9, 16, 17, 20], [1, 2, 3], [1])
    """
    step = 1
    while step * points < size:
        step *= 2
    right = {*range(step, size, step), size}
    left = {end + 1 for end in (0, *right) if end < size}
    return sorted(left | right)


def axes_of(sizes: Sizes, vary: Sequence[bool], points: int) -> list[list[int]]:
    """Sizes to measure along every axis: one where nothing varies, and not too many in all.

    Examples
    --------
    >>> axes_of((1, 8), (False, True), 4)
    [[1], [1, 2, 3, 4, 5, 6, 7, 8]]
    >>> [len(axis) for axis in axes_of((64, 64, 64), (True, True, True), 8)]
    [4, 4, 4]
    """
    while True:
        axes = [
            stops(size, points) if varies else [size]
            for size, varies in zip(sizes, vary, strict=True)
        ]
        if prod(map(len, axes)) <= MOST_POINTS or points <= 1:
            return axes
        points //= 2


@dataclasses.dataclass(frozen=True)
class Grid:
    """Latencies of one operation.

    Between two measured sizes it is linear along each axis. Beyond the largest, and along an axis
    with one size only, it is in proportion to the size.

    Attributes
    ----------
    axes : tuple of tuple of int
        Measured sizes, ascending, of every axis.
    ms : tuple of float
        Milliseconds at every combination, the last axis running fastest.
    noise : float
        How far off they may be by chance, as a fraction.

    Examples
    --------
    >>> grid = Grid(((1, 8, 9, 16),), (1.0, 1.0, 2.0, 2.0))
    >>> grid((3,)), grid((8,)), grid((9,)), grid((32,))
    (1.0, 1.0, 2.0, 4.0)
    """

    axes: tuple[Sizes, ...]
    ms: tuple[float, ...]
    noise: float = 0.0

    @property
    def points(self) -> list[Sizes]:
        """Every combination of sizes."""
        return list(itertools.product(*self.axes))

    @cached_property
    def _values(self) -> np.ndarray:
        return np.array(self.ms).reshape([len(axis) for axis in self.axes])

    def right_ends(self, axis: int) -> set[int]:
        """Measured sizes at the right end of a step.

        Examples
        --------
        >>> sorted(Grid(((1, 8, 9, 16),), (1.0, 1.0, 2.0, 2.0)).right_ends(0))
        [8, 16]
        """
        sizes = self.axes[axis]
        return {size for size in sizes if size + 1 in sizes or size == sizes[-1]}

    def covers(self, sizes: Sizes) -> bool:
        """Whether these sizes were measured, or lie between measured ones."""
        return all(axis[0] <= size <= axis[-1] for axis, size in zip(self.axes, sizes, strict=True))

    def __call__(self, sizes: Sizes) -> float:
        """Milliseconds at these sizes."""
        values, scale = self._values, 1.0
        for axis, size in zip(self.axes, sizes, strict=True):
            if size <= 0:
                return 0.0
            inside = min(max(size, axis[0]), axis[-1])
            if inside < size or len(axis) == 1:
                scale *= size / inside
            high = int(np.searchsorted(axis, inside))
            if axis[high] == inside:
                values = values[high]
            else:
                low = high - 1
                share = (inside - axis[low]) / (axis[high] - axis[low])
                values = (1 - share) * values[low] + share * values[high]
        return float(values) * scale

    def to_json(self) -> dict[str, Any]:
        """As it is written to a file."""
        return {
            "axes": [list(axis) for axis in self.axes],
            "ms": list(self.ms),
            "noise": self.noise,
        }

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Grid:
        """Read what `to_json` made."""
        axes = tuple(tuple(int(size) for size in axis) for axis in read["axes"])
        grid = cls(axes, tuple(float(value) for value in read["ms"]), float(read["noise"]))
        if len(grid.ms) != prod(map(len, axes)) or not all(axes) or min(grid.ms) < 0:
            raise ValueError("a grid does not fit its axes")
        return grid
