"""Units of a weight as tiles: along every axis a unit keeps apart, cuts, or spans."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["Tiling", "count_true"]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A canonical weight ``[outputs, inputs, *kernel]`` cut into equal boxes.

    Boxes at the far edges are smaller where a size does not divide; scores are means over the
    entries that exist, so edges do not lose for being small.

    Attributes
    ----------
    shape : tuple of int
        Of the canonical weight.
    tile : tuple of int
        Of one box, no longer than the shape.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """How many boxes there are along every axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.tile, strict=True))

    @property
    def count(self) -> int:
        return math.prod(self.grid)

    @property
    def even(self) -> bool:
        """Whether all boxes have as many entries."""
        return not any(size % step for size, step in zip(self.shape, self.tile, strict=True))

    def sizes(self) -> Tensor:
        """Entries of every box, ``[*grid]``, int64."""
        result = torch.ones(1, dtype=torch.int64)
        for size, step, boxes in zip(self.shape, self.tile, self.grid, strict=True):
            along = torch.full((boxes,), step, dtype=torch.int64)
            along[-1] = size - step * (boxes - 1)
            result = result[..., None] * along
        return result[0]

    def sums(self, entries: Tensor) -> Tensor:
        """Sum over every box, ``[*grid]``.

        Examples
        --------
        >>> Tiling((2, 3), (1, 2)).sums(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        tensor([[3., 3.],
                [9., 6.]])
        """
        for axis, (size, step) in enumerate(zip(self.shape, self.tile, strict=True)):
            if step == 1:
                continue
            if step == size:
                entries = entries.sum(axis, keepdim=True)
                continue
            whole = size - size % step
            parts = entries.narrow(axis, 0, whole).unflatten(axis, (-1, step)).sum(axis + 1)
            if whole < size:
                rest = entries.narrow(axis, whole, size - whole).sum(axis, keepdim=True)
                parts = torch.cat([parts, rest], axis)
            entries = parts
        return entries

    def means(self, entries: Tensor) -> Tensor:
        """Mean over the entries that every box has, ``[*grid]``.

        Added up in double precision, so that boxes of equal entries have equal means whatever
        their sizes, and ties go by index.

        Examples
        --------
        >>> Tiling((1, 5), (1, 3)).means(torch.full((1, 5), 0.1)).tolist()
        [[0.10000000149011612, 0.10000000149011612]]
        """
        if math.prod(self.tile) == 1:
            return entries
        wide = entries if entries.device.type == "mps" else entries.double()
        return (self.sums(wide) / self.sizes().to(entries.device)).to(entries.dtype)

    def rows(self, entries: Tensor) -> Tensor:
        """One row of entries per box, ``[boxes, entries of a box]``; short boxes end in zeros.

        Examples
        --------
        >>> Tiling((2, 3), (2, 2)).rows(torch.tensor([[1, 2, 3], [4, 5, 6]]))
        tensor([[1, 2, 4, 5],
                [3, 0, 6, 0]])
        """
        grid, axes = self.grid, len(self.shape)
        padding = [step * boxes - size for size, step, boxes in zip(
            self.shape, self.tile, grid, strict=True)]  # fmt: skip
        flat = [side for extra in reversed(padding) for side in (0, extra)]
        padded = torch.nn.functional.pad(entries, flat) if any(padding) else entries
        split = [size for pair in zip(grid, self.tile, strict=True) for size in pair]
        boxed = padded.reshape(split).permute(*range(0, 2 * axes, 2), *range(1, 2 * axes, 2))
        return boxed.reshape(self.count, -1)

    def spread(self, boxes: Tensor) -> Tensor:
        """Every entry takes the value of its box: ``[*grid]`` to ``[*shape]``.

        Examples
        --------
        >>> Tiling((2, 3), (1, 2)).spread(torch.tensor([[True, False], [False, True]]))
        tensor([[ True,  True, False],
                [False, False,  True]])
        """
        for axis, (size, step) in enumerate(zip(self.shape, self.tile, strict=True)):
            if step == size:
                continue
            if step > 1:
                boxes = boxes.repeat_interleave(step, axis).narrow(axis, 0, size)
        return boxes.expand(self.shape)


def count_true(mask: Tensor) -> int:
    """How many entries of a bool tensor on the CPU are True; NumPy is several times as fast.

    Examples
    --------
    >>> count_true(torch.tensor([True, False, True]))
    2
    """
    return int(np.count_nonzero(mask.numpy()))
