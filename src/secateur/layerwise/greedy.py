"""Greedy orders of removal: what goes next costs least, given what went before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["inputs_by_error", "removal_costs"]

# Entries of the inverses that are updated together: 256 MB in double precision.
AT_ONCE = 1 << 25


def removal_costs(weight: Tensor, inverted: Tensor) -> Tensor:
    """What every weight costs when its turn comes, the cheapest of its output always next.

    After each removal the others make up for it, and the inverse forgets it (Frantar et al. 2022,
    arXiv:2208.11580). Costs of an output never fall along its order, so that a threshold takes a
    start of it.

    Parameters
    ----------
    weight : Tensor, shape [groups, outputs of a group, d]
    inverted : Tensor of float64, shape [groups, d, d]
        Inverse of the mean of x xᵀ.

    Returns
    -------
    Tensor of float64, of the weight's shape

    Examples
    --------
    >>> removal_costs(torch.tensor([[[2.0, 1.0]]]), torch.eye(2).double()[None])
    tensor([[[4., 1.]]], dtype=torch.float64)
    """
    groups, outputs, width = weight.shape
    costs = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    step = max(1, AT_ONCE // (width * width))
    for group in range(groups):
        for top in range(0, outputs, step):
            some = slice(top, top + step)
            costs[group, some] = _row_costs(weight[group, some].double(), inverted[group])
    return costs


def _row_costs(weight: Tensor, inverted: Tensor) -> Tensor:
    weight, rows = weight.clone(), torch.arange(len(weight), device=weight.device)
    left = inverted.repeat(len(weight), 1, 1)
    costs, highest = torch.zeros_like(weight), weight.new_zeros(len(weight))
    gone = torch.zeros_like(weight, dtype=torch.bool)
    for _ in range(weight.shape[1]):
        now = weight.square() / left.diagonal(dim1=1, dim2=2)
        cost, at = now.masked_fill(gone, torch.inf).min(dim=1)
        highest = torch.maximum(highest, cost)
        costs[rows, at] = highest
        gone[rows, at] = True
        column = left[rows, :, at]
        pivot = column[rows, at]
        weight -= column * (weight[rows, at] / pivot)[:, None]
        left -= column[:, :, None] * (column / pivot[:, None])[:, None]
        # What is gone is out of every later step, whatever rounding leaves of it.
        left.diagonal(dim1=1, dim2=2).masked_fill_(gone, 1.0)
        weight.masked_fill_(gone, 0.0)
    return costs


def inputs_by_error(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in the order that keeps the error of leaving them out lowest at every step.

    Luo et al. 2017 (arXiv:1707.06342): the removed set grows by the input with which
    ``E(Σ of removed contributions)²`` is least. Of equals, the lowest index goes first.

    Parameters
    ----------
    gram : ndarray, shape [n, n]
        What input i contributes to the output times what input j does, summed over data.

    Returns
    -------
    order : ndarray of int, shape [n]
    errors : ndarray of float, shape [n]
        Energy missed after each step.

    Examples
    --------
    >>> inputs_by_error(np.diag([4.0, 1.0, 2.0]))
    (array([1, 2, 0]), array([1., 3., 7.]))
    """
    count = len(gram)
    order, errors = np.zeros(count, dtype=np.int64), np.zeros(count)
    # Energy with each input added to what is gone.
    rise, gone, energy = gram.diagonal().astype(np.float64).copy(), np.zeros(count, dtype=bool), 0.0
    for step in range(count):
        at = int(np.argmin(np.where(gone, np.inf, rise)))
        energy = max(energy + rise[at], 0.0)
        order[step], errors[step] = at, energy
        gone[at] = True
        rise += 2 * gram[at]
    return order, errors
