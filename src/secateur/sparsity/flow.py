"""The best choice of N entries in every row and column of many square tiles at once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["assigned"]

# Scores become integers of so many bits: sums of paths are then exact, and no rounding can make
# a path look worth walking in a circle.
BITS = 40
FAR = 1 << 60
# Tiles at once.
CHUNK = 1 << 12


def assigned(tiles: Tensor, keep: int) -> Tensor:
    """Entries of the highest total, exactly ``keep`` in every row and column.

    A minimum-cost flow from rows to columns, one unit at a time along the cheapest path that may
    also take entries back; all tiles advance together. Rows and columns always fill up.

    Parameters
    ----------
    tiles : Tensor, shape [tiles, M, M]
        Finite.
    keep : int

    Returns
    -------
    Tensor of bool, shape [tiles, M, M]

    Examples
    --------
    >>> assigned(torch.tensor([[[1.0, 2.0], [2.0, 4.0]]]), 1).int()
    tensor([[[1, 0],
             [0, 1]]], dtype=torch.int32)
    """
    parts = [_assigned(part, keep) for part in tiles.split(CHUNK)]
    return torch.cat(parts) if parts else torch.zeros(tiles.shape, dtype=torch.bool)


def _assigned(tiles: Tensor, keep: int) -> Tensor:
    count, size, _ = tiles.shape
    largest = tiles.double().abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-300)
    worth = (tiles.double() / largest * (1 << BITS)).round().long()
    used = torch.zeros(tiles.shape, dtype=torch.bool)
    rows_left = torch.full((count, size), keep)
    columns_left = torch.full((count, size), keep)
    every = torch.arange(count)
    for _ in range(size * keep):
        to_column, from_row, from_column = _distances(worth, used, rows_left)
        column = torch.where(columns_left > 0, to_column, FAR).argmin(dim=1)
        columns_left[every, column] -= 1
        walking = every
        while len(walking):
            row = from_row[walking, column]
            used[walking, row, column] = True
            column = from_column[walking, row]
            start = column < 0
            rows_left[walking[start], row[start]] -= 1
            walking, row, column = walking[~start], row[~start], column[~start]
            used[walking, row, column] = False
    return used


def _distances(worth: Tensor, used: Tensor, rows_left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cheapest paths from any row with room to every column, and where each step came from."""
    size = worth.shape[-1]
    forward = torch.where(used, FAR, -worth)
    back = torch.where(used, worth, FAR)
    to_row = torch.where(rows_left > 0, 0, FAR)
    to_column = torch.full_like(to_row, FAR)
    from_row, from_column = torch.full_like(to_row, -1), torch.full_like(to_row, -1)
    for _ in range(size):
        found, through = (to_row[:, :, None] + forward).min(dim=1)
        # Only what is strictly shorter counts, so no two steps can come from each other.
        shorter = found < to_column
        to_column = torch.where(shorter, found, to_column)
        from_row = torch.where(shorter, through, from_row)
        found, through = (to_column[:, None, :] + back).min(dim=2)
        shorter = found < to_row
        if not bool(shorter.any()):
            break
        to_row = torch.where(shorter, found, to_row)
        from_column = torch.where(shorter, through, from_column)
    return to_column, from_row, from_column
