"""N:M sparsity: N of every M consecutive inputs stay."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.errors import InputError

__all__ = ["nm_mask"]

# Up to this M, comparing every pair is faster than sorting.
PAIRWISE = 16
# Entries at once: what is compared then stays in cache.
CHUNK = 1 << 15


def nm_mask(scores: Tensor, keep: int, of: int) -> Tensor:
    """Keep the entries with the highest scores in every run of inputs.

    Runs go along the inputs at a fixed output and kernel position, which is the dimension that
    hardware with N:M support reduces over. The last run of a row may be short: it keeps
    ``min(keep, its length)``. Of equal scores the lowest index goes first.

    Parameters
    ----------
    scores : Tensor, shape [outputs, inputs, *kernel]
        No NaN.
    keep, of : int
        ``keep`` of ``of`` stay: 2 and 4 for 2:4.

    Returns
    -------
    Tensor of bool
        True where kept; of the shape and on the device of the scores.

    Raises
    ------
    InputError
        Unless ``1 <= keep <= of`` and ``of >= 2``.

    Examples
    --------
    >>> nm_mask(torch.tensor([[1.0, 5.0, 3.0, 2.0, 4.0, 4.0]]), 2, 4).int()
    tensor([[0, 1, 1, 0, 1, 1]], dtype=torch.int32)
    """
    if not 1 <= keep <= of or of < 2:
        raise InputError(f"{keep}:{of} must keep at least 1 and at most all of 2 or more")
    # Inputs last and in memory order: a convolution's runs are strided as it stores them.
    rows = scores.movedim(1, -1)
    mask = torch.ones(rows.shape, dtype=torch.bool, device=scores.device)
    flat, out = rows.reshape(-1, rows.shape[-1]), mask.view(-1, rows.shape[-1])
    width = flat.shape[1]
    whole = width - width % of
    tall = max(1, CHUNK // max(width, 1))
    for top in range(0, flat.shape[0] if whole else 0, tall):
        part = flat[top : top + tall, :whole].unflatten(1, (-1, of))
        out[top : top + tall, :whole] = _kept(part, keep).flatten(1)
    if width - whole > keep:
        out[:, whole:] = _kept(flat[:, whole:].unsqueeze(1), keep).squeeze(1)
    return mask.movedim(-1, 1)


def _kept(runs: Tensor, keep: int) -> Tensor:
    """The ``keep`` highest along the last dimension; of equals the last ones."""
    of = runs.shape[-1]
    if of > PAIRWISE:
        order = runs.argsort(dim=-1, stable=True)
        kept = torch.zeros(runs.shape, dtype=torch.bool, device=runs.device)
        return kept.scatter_(-1, order[..., of - keep :], True)
    columns = [runs[..., at].contiguous() for at in range(of)]
    beaten = [torch.zeros(columns[0].shape, dtype=torch.uint8, device=runs.device) for _ in columns]
    for left in range(of):
        for right in range(left + 1, of):
            wins = columns[left] > columns[right]
            beaten[right] += wins
            beaten[left] += ~wins
    return torch.stack([count < keep for count in beaten], dim=-1)
