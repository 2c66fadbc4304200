"""A tensor cut into tiles of one shape, and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

__all__ = ["cut_tiles", "grid_of", "join_tiles"]

Array = np.ndarray[Any, Any]


def grid_of(shape: Sequence[int], tile: Sequence[int]) -> tuple[int, ...]:
    """How many tiles there are along every axis; the last may stick out.

    Examples
    --------
    >>> grid_of((10, 3), (4, 1))
    (3, 3)
    """
    return tuple(-(-size // step) for size, step in zip(shape, tile, strict=True))


def cut_tiles(values: Array, tile: Sequence[int]) -> Array:
    """The tiles in row-major order, each flat, with zeros where it sticks out.

    Parameters
    ----------
    values : ndarray
    tile : sequence of int
        A length along every axis.

    Returns
    -------
    ndarray, shape [tiles, entries of a tile]

    Examples
    --------
    >>> cut_tiles(np.arange(6).reshape(3, 2), (2, 1)).tolist()
    [[0, 2], [1, 3], [4, 0], [5, 0]]
    """
    entries = prod(tile)
    if entries == 1:
        return values.reshape(-1, 1)
    grid = grid_of(values.shape, tile)
    spare = [(0, n * t - s) for n, t, s in zip(grid, tile, values.shape, strict=True)]
    if any(after for _, after in spare):
        values = np.pad(values, spare)
    ndim = values.ndim
    split = values.reshape([size for pair in zip(grid, tile, strict=True) for size in pair])
    order = [*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2)]
    return split.transpose(order).reshape(prod(grid), entries)


def join_tiles(tiles: Array, shape: Sequence[int], tile: Sequence[int]) -> Array:
    """The reverse of `cut_tiles`; what sticks out is dropped.

    Examples
    --------
    >>> tiles = cut_tiles(np.arange(6).reshape(3, 2), (2, 1))
    >>> join_tiles(tiles, (3, 2), (2, 1)).tolist()
    [[0, 1], [2, 3], [4, 5]]
    """
    if prod(tile) == 1:
        return tiles.reshape(tuple(shape))
    grid, ndim = grid_of(shape, tile), len(tile)
    split = tiles.reshape((*grid, *tile))
    order = [axis for at in range(ndim) for axis in (at, ndim + at)]
    whole = split.transpose(order).reshape([n * t for n, t in zip(grid, tile, strict=True)])
    return np.ascontiguousarray(whole[tuple(slice(size) for size in shape)])
