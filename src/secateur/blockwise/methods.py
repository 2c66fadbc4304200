"""What becomes zero in one weight, from what it multiplied: Wanda, SparseGPT, magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from secateur.layerwise import Amount, factored, swept
from secateur.sparsity.nm import nm_mask

__all__ = ["METHODS", "Pruned", "Seen", "kept_in_rows"]

CHUNK = 1 << 20
"""Entries whose scores are held at once: rows compare with themselves alone."""
COLUMNS = 512
"""Of the inverse of a triangle that are solved for at once."""
DAMP = 0.01
"""Share of the mean diagonal that is added to a Hessian's, as in the paper."""

Pruned: TypeAlias = tuple[Tensor, Tensor]
"""The weight ``[outputs, inputs]``, zero where masked, and the mask, True where kept."""


class Seen:
    """What the inputs of a weight were, streamed: as much of it as a method asks for.

    Parameters
    ----------
    width : int
        Inputs.
    products : bool
        Whether products of inputs are summed, or their squares alone.
    """

    def __init__(self, width: int, products: bool, device: torch.device) -> None:
        shape = (width, width) if products else (width,)
        self.sums = torch.zeros(shape, dtype=torch.float32, device=device)
        self.rows = 0

    def add(self, given: Tensor) -> None:
        """Take in what a layer was given, ``[*, inputs]``."""
        rows = given.detach().reshape(-1, given.shape[-1]).float()
        if self.sums.dim() == 2:
            self.sums.addmm_(rows.T, rows)
        else:
            self.sums += rows.square().sum(dim=0)
        self.rows += len(rows)


def kept_in_rows(scores: Tensor, sparsity: float | tuple[int, int]) -> Tensor:
    """Which entries of every row stay: all but exactly ``floor(inputs * sparsity)``, or N of M.

    Of equal scores the lowest index goes first.

    Examples
    --------
    >>> kept_in_rows(torch.tensor([[3.0, 1.0, 2.0, 1.0]]), 0.5)
    tensor([[ True, False,  True, False]])
    """
    if isinstance(sparsity, tuple):
        return nm_mask(scores, *sparsity)
    gone = math.floor(scores.shape[1] * sparsity + 1e-9)
    if not gone:
        return torch.ones_like(scores, dtype=torch.bool)
    # Selecting the threshold is cheaper than sorting every row.
    limit = scores.kthvalue(gone, dim=1, keepdim=True).values
    kept = scores > limit
    missing = (scores.shape[1] - gone) - kept.sum(dim=1, keepdim=True)
    if bool(missing.any()):
        # Ties at the threshold: those of the highest index stay.
        ties = scores == limit
        from_the_end = ties.flip(1).cumsum(dim=1).flip(1)
        kept |= ties & (from_the_end <= missing)
    return kept


def wanda(weight: Tensor, seen: Seen, sparsity: float | tuple[int, int]) -> Pruned:
    """Weight times the norm of its input, compared within a row (arXiv:2306.11695)."""
    norms = seen.sums.sqrt()
    new, mask = torch.empty_like(weight), torch.empty_like(weight, dtype=torch.bool)
    tall = max(1, CHUNK // weight.shape[1])
    for top in range(0, len(weight), tall):
        rows = weight[top : top + tall]
        kept = kept_in_rows(rows.float().abs().mul_(norms), sparsity)
        mask[top : top + tall] = kept
        torch.mul(rows, kept, out=new[top : top + tall])
    return new, mask


def magnitude(weight: Tensor, seen: Seen, sparsity: float | tuple[int, int]) -> Pruned:
    """The size of a weight, compared within the layer, or within runs."""
    scores = weight.float().abs()
    if isinstance(sparsity, tuple):
        mask = nm_mask(scores, *sparsity)
    else:
        mask = kept_in_rows(scores.reshape(1, -1), sparsity).reshape(weight.shape)
    return weight * mask, mask


def sparsegpt(weight: Tensor, seen: Seen, sparsity: float | tuple[int, int]) -> Pruned:
    """One sweep over the columns, each making up for those before (arXiv:2301.00774)."""
    factor = _factor(seen)
    if isinstance(sparsity, tuple):
        amount = Amount(runs=sparsity)
    else:
        amount = Amount(zeros=math.floor(weight.numel() * sparsity + 1e-9))
    new, mask = swept(weight[None], factor[None], amount, weight.shape[1])
    return new[0], mask[0]


def _factor(seen: Seen) -> Tensor:
    """The upper Cholesky factor of the inverse Hessian; the sums are used up for it.

    A matrix of a wide layer's inputs is the largest thing around, so none is kept beside it.
    """
    sums, seen.sums = seen.sums, seen.sums.new_empty(0)
    sums /= max(seen.rows, 1)
    diagonal = sums.diagonal()
    level = float(diagonal.mean())
    diagonal += DAMP * level if level > 0 else 1.0
    flipped = sums.flip(0, 1)
    del sums, diagonal
    lower = factored(flipped)
    del flipped
    upper = lower.flip(0, 1)
    del lower
    inverse = torch.zeros_like(upper)
    for start in range(0, len(upper), COLUMNS):
        stop = min(start + COLUMNS, len(upper))
        # Below its own rows, a column of the inverse of a triangle is zero.
        unit = upper.new_zeros(stop, stop - start)
        unit[start:].fill_diagonal_(1.0)
        solved = torch.linalg.solve_triangular(upper[:stop, :stop], unit, upper=True)
        inverse[:stop, start:stop] = solved
    return inverse


Method: TypeAlias = Callable[[Tensor, Seen, "float | tuple[int, int]"], Pruned]

METHODS: dict[str, tuple[Method, bool]] = {
    "wanda": (wanda, False),
    "sparsegpt": (sparsegpt, True),
    "magnitude": (magnitude, False),
}
"""Name -> the method, and whether it needs products of inputs."""
