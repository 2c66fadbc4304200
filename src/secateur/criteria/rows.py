"""One row per unit: the slices of a tensor along one dimension, gathered by unit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = ["rows_of"]


def rows_of(
    weight: Tensor, grad: Tensor | None, dim: int, units: np.ndarray, group_of_unit: np.ndarray
) -> Iterator[tuple[Tensor, Tensor | None, np.ndarray]]:
    """Cut a tensor into rows, one block for every group of interchangeable units.

    A linear layer behind a flatten has many columns per channel: they are one row here, side by
    side, because they go together. Units of different groups, as in the input of a layer behind a
    concatenation, come in blocks of their own, because only units of one group compare. So do
    units with different numbers of positions.

    Parameters
    ----------
    weight, grad : Tensor
        Of one shape.
    dim : int
        The dimension to cut.
    units : ndarray of int, shape [size of dim]
        Unit of every position, -1 for none.
    group_of_unit : ndarray of int, shape [units]

    Yields
    ------
    rows : Tensor of shape [n, rest]
    grad rows : Tensor of shape [n, rest] or None
    units : ndarray of int, shape [n]

    Examples
    --------
    >>> weight = torch.arange(4.0)[None]
    >>> units, groups = np.array([0, 1, 0, 1]), np.array([0, 0])
    >>> [rows.tolist() for rows, _, _ in rows_of(weight, None, 1, units, groups)]
    [[[0.0, 2.0], [1.0, 3.0]]]
    """
    flat = weight.movedim(dim, 0).flatten(1) if weight.ndim > 1 else weight[:, None]
    flat_grad = None
    if grad is not None:
        flat_grad = grad.movedim(dim, 0).flatten(1) if grad.ndim > 1 else grad[:, None]

    positions = np.flatnonzero(units >= 0)
    positions = positions[np.argsort(units[positions], kind="stable")]
    present, starts, counts = np.unique(units[positions], return_index=True, return_counts=True)
    blocks = group_of_unit[present] * (len(units) + 1) + counts
    for block in np.unique(blocks):
        chosen = np.flatnonzero(blocks == block)
        each = int(counts[chosen[0]])
        where = positions[starts[chosen][:, None] + np.arange(each)]
        names = present[chosen]
        if each == 1 and len(names) == len(units):
            # The whole dimension, in its own order: no copy.
            yield flat, flat_grad, units
        else:
            index = torch.as_tensor(where.reshape(-1), device=weight.device)
            rows = flat.index_select(0, index).view(len(names), -1)
            grad_rows = None
            if flat_grad is not None:
                grad_rows = flat_grad.index_select(0, index).view(len(names), -1)
            yield rows, grad_rows, names
