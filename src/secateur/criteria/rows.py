"""One row per unit: the slices of a tensor along one dimension, gathered by unit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["blocks_at", "blocks_of", "rows_at"]


def blocks_of(units: np.ndarray, group_of_unit: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sort the positions of one dimension into blocks of comparable units.

    A linear layer behind a flatten has many columns per channel: they are one row here, side by
    side, because they go together. Units of different groups, as in the input of a layer behind a
    concatenation, come in blocks of their own, because only units of one group compare. So do
    units with different numbers of positions.

    Parameters
    ----------
    units : ndarray of int, shape [size of the dimension]
        Unit of every position, -1 for none.
    group_of_unit : ndarray of int, shape [units]

    Returns
    -------
    list of (ndarray of int, shape [n, positions each]; ndarray of int, shape [n])
        Positions and names of the units of every block.

    Examples
    --------
    >>> [(where, names)] = blocks_of(np.array([0, 1, 0, 1]), np.array([0, 0]))
    >>> where.tolist(), names.tolist()
    ([[0, 2], [1, 3]], [0, 1])
    """
    positions = np.flatnonzero(units >= 0)
    positions = positions[np.argsort(units[positions], kind="stable")]
    present, starts, counts = np.unique(units[positions], return_index=True, return_counts=True)
    labels = group_of_unit[present] * (len(units) + 1) + counts
    blocks = []
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)
        each = np.arange(counts[chosen[0]])
        blocks.append((positions[starts[chosen][:, None] + each], present[chosen]))
    return blocks


def rows_at(tensor: Tensor, dim: int, where: np.ndarray) -> Tensor:
    """Cut rows out of a tensor.

    Parameters
    ----------
    tensor : Tensor
    dim : int
        The dimension to cut.
    where : ndarray of int, shape [n, positions each]

    Returns
    -------
    Tensor of shape [n, rest]
        Without a copy where the rows are the tensor's own.

    Examples
    --------
    >>> rows_at(torch.arange(4.0)[None], 1, np.array([[0, 2], [1, 3]]))
    tensor([[0., 2.], [1., 3.]])
    """
    flat = tensor.movedim(dim, 0).flatten(1) if tensor.ndim > 1 else tensor[:, None]
    index = where.reshape(-1)
    if len(index) == len(flat) and (index == np.arange(len(index))).all():
        return flat.view(len(where), -1) if flat.is_contiguous() else flat.reshape(len(where), -1)
    chosen = flat.index_select(0, torch.as_tensor(index, device=tensor.device))
    return chosen.view(len(where), -1)


def blocks_at(matrix: Tensor, where: np.ndarray) -> Tensor:
    """Add a matrix over positions up to one over units.

    Parameters
    ----------
    matrix : Tensor, shape [size, size]
    where : ndarray of int, shape [n, positions each]

    Returns
    -------
    Tensor of shape [n, n]

    Examples
    --------
    >>> blocks_at(torch.ones(4, 4), np.array([[0, 2]]))
    tensor([[4.]])
    """
    index = torch.as_tensor(where.reshape(-1), device=matrix.device)
    count, each = where.shape
    return matrix[index][:, index].reshape(count, each, count, each).sum((1, 3))
