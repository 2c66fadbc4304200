"""Exactly so many of the lowest, ties by index: one rule of counting for every method."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.sparsity.select import zeros_wanted

__all__ = ["lowest"]


def lowest(scores: Tensor, share: float, keep: int = 1) -> Tensor:
    """Choose ``floor(share * n)`` of n units, the lowest first; at least ``keep`` are left.

    Parameters
    ----------
    scores : Tensor
        Any shape.
    share : float
        0 to 1.

    Returns
    -------
    Tensor of bool
        True where chosen.

    Examples
    --------
    >>> lowest(torch.tensor([3.0, 1.0, 1.0, 1.0]), 0.5).tolist()
    [False, True, True, False]
    """
    flat = scores.detach().flatten()
    count = max(min(zeros_wanted(share, len(flat)), len(flat) - keep), 0)
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[flat.argsort(stable=True)[:count]] = True
    return chosen.reshape(scores.shape)
