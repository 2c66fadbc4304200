"""From a weight of any shape to a matrix that can be drawn."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError

__all__ = ["Matrix", "as_matrix"]

MOST_CELLS = 256
BETWEEN = 0.45


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Cells, and where they are.

    Attributes
    ----------
    cells : ndarray, shape [rows, columns]
    tops, lefts : ndarray, shapes [rows] and [columns]
        In sides of a cell; kernels stand apart from each other.
    caption : str
        What was drawn of what.
    kept_only : bool
        Whether it says only what is kept.
    """

    cells: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray
    caption: str
    kept_only: bool

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width, in sides of a cell."""
        return float(self.tops[-1] + 1), float(self.lefts[-1] + 1)

    @property
    def largest(self) -> float:
        """The size from which on a cell is of full strength; a few large ones do not set it."""
        sizes = np.abs(self.cells[self.cells != 0])
        return float(np.quantile(sizes, 0.99)) if sizes.size else 1.0

    @property
    def tight(self) -> bool:
        """Whether there is no room for lines between cells."""
        return max(self.cells.shape) > MOST_CELLS // 2


def as_matrix(weight: Tensor | np.ndarray, corner: tuple[int, int] | None = None) -> Matrix:
    """Lay a weight out: outputs downwards, inputs to the right, kernels as tiles.

    Examples
    --------
    >>> drawn = as_matrix(torch.ones(4, 2, 3, 3))
    >>> drawn.cells.shape, drawn.caption
    ((12, 6), '4 outputs × 2 inputs, kernels of 3 × 3')
    >>> as_matrix(torch.eye(512)).cells.shape
    (256, 256)
    """
    array = _array(weight)
    kept_only = array.dtype == bool
    array = array.astype(np.float32)
    if not array.size:
        raise InputError("there is nothing to draw: the weight has no entries")
    if not np.isfinite(array).all():
        raise InputError("the weight has entries that are not finite")
    if array.ndim < 2:
        array = array.reshape(-1, 1) if array.ndim else array.reshape(1, 1)
    outputs, inputs, *kernel = array.shape
    height, width = (math.prod(kernel[:-1]), kernel[-1]) if kernel else (1, 1)
    array = array.reshape(outputs, inputs, height, width)
    caption = f"{outputs} outputs × {inputs} inputs"
    if corner is not None:
        array = array[: corner[0], : corner[1]]
        if array.shape[:2] != (outputs, inputs):
            caption = f"the first {array.shape[0]} × {array.shape[1]} of {caption}"
    if kernel:
        caption += f", kernels of {' × '.join(map(str, kernel))}"
    cells = array.transpose(0, 2, 1, 3).reshape(array.shape[0] * height, -1)
    block = [math.ceil(max(cells.shape) / MOST_CELLS)] * 2
    if block[0] > 1:
        cells, height, width = _shares(cells, block), 1, 1
        caption += f"; a cell is {block[0]} × {block[1]} entries, by how many are kept"
    tops, lefts = _places(cells.shape[0], height), _places(cells.shape[1], width)
    return Matrix(cells, tops, lefts, caption, kept_only)


def _array(weight: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(weight, Tensor):
        plain = weight.detach().cpu()
        return (plain if plain.dtype == torch.bool else plain.float()).numpy()
    if isinstance(weight, np.ndarray) and weight.dtype.kind in "biuf":
        return weight
    raise InputError(f"a weight or mask is a tensor or an array, not {type(weight).__name__}")


def _shares(cells: np.ndarray, block: list[int]) -> np.ndarray:
    """How much of every block is kept; what a last block lacks does not count."""
    kept, there = (cells != 0).astype(float), np.ones(1)
    for axis, (size, step) in enumerate(zip(cells.shape, block, strict=True)):
        starts = np.arange(0, size, step)
        kept = np.add.reduceat(kept, starts, axis=axis)
        there = np.multiply.outer(there, np.diff([*starts, size]))
    return kept / there[0]


def _places(count: int, tile: int) -> np.ndarray:
    """Where each row or column begins; tiles of more than one stand apart."""
    numbers = np.arange(count)
    return numbers + (numbers // tile * BETWEEN if tile > 1 else 0.0)
