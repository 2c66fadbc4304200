"""SparseGPT: choose and repair in one sweep over the columns of a weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.layerwise.solve import damped, inverse_factor
from secateur.observing.moments import Moments

__all__ = ["Amount", "sweep", "swept"]


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much of a weight becomes zero.

    Attributes
    ----------
    zeros : int
        Entries of the whole weight; unused with `runs`.
    runs : (int, int) or None
        ``(keep, of)``: so many of so many consecutive inputs stay.
    """

    zeros: int = 0
    runs: tuple[int, int] | None = None


def sweep(
    moments: Moments,
    weight: Tensor,
    amount: Amount,
    inputs: int,
    *,
    held: Tensor | None = None,
    block: int = 128,
    damp: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Choose zeros from left to right, and let the columns to the right make up for each.

    Frantar and Alistarh 2023 (arXiv:2301.00774). With U the upper Cholesky factor of H⁻¹, the
    entries of a block of columns with the lowest ``w² / U_jj²`` become zero, whatever their row;
    with runs, the lowest of each run as it is reached. The error of a column, ``(w − q) / U_jj``,
    is taken off the columns behind it along row j of U.

    Parameters
    ----------
    moments : Moments
    weight : Tensor, shape [groups, outputs of a group, kernel positions * inputs]
    amount : Amount
    inputs : int
        Of a group: no run goes beyond them.
    held : Tensor of bool, of the weight's shape, optional
        False where the weight is masked already; that counts, and stays.
    block : int, default 128
        Columns among which entries compete, as in the paper.
    damp : float, default 0.01
        Share of the mean diagonal added to the Hessian's, as in the paper.

    Returns
    -------
    new : Tensor
        The weight, zero where it is masked.
    mask : Tensor of bool
        True where kept. Exactly ``amount.zeros`` are not.
    """
    factors = inverse_factor(damped(moments, damp))
    return swept(weight, factors, amount, inputs, held=held, block=block)


def swept(
    weight: Tensor,
    factors: Tensor,
    amount: Amount,
    inputs: int,
    *,
    held: Tensor | None = None,
    block: int = 128,
) -> tuple[Tensor, Tensor]:
    """`sweep` with the upper Cholesky factors of H⁻¹ at hand, in their precision.

    Parameters
    ----------
    weight : Tensor, shape [groups, outputs of a group, d]
    factors : Tensor, shape [groups, d, d]
    """
    new = weight.to(factors.dtype, copy=True)
    held = torch.ones_like(weight, dtype=torch.bool) if held is None else held
    mask = held.clone()
    budget = _Budget(amount.zeros, held)
    for group in range(len(new)):
        # Inputs that never were anything else than zero need no weight, and cost none.
        for start, stop, spans in _blocks(new.shape[2], inputs, amount.runs, block):
            # Turned, so that a column lies in one piece.
            columns = new[group, :, start:stop].T.contiguous()
            factor = factors[group, start:stop, start:stop]
            scales, errors = factor.diagonal(), torch.empty_like(columns)
            stays = torch.empty_like(columns, dtype=torch.bool)
            ends = {first - start: last - start for first, last in spans}
            for at in range(stop - start):
                if at in ends:
                    last = ends[at]
                    scores = (columns[at:last].T / scales[at:last]).square()
                    chosen = held[group, :, start + at : start + last]
                    kept = _kept(scores, chosen, amount.runs, budget)
                    mask[group, :, start + at : start + last] = kept
                    stays[at:last] = kept.T
                torch.div(columns[at].masked_fill(stays[at], 0.0), scales[at], out=errors[at])
                columns[at:].addr_(factor[at, at:], errors[at], alpha=-1)
            new[group, :, start:stop] = columns.T
            new[group, :, stop:].addmm_(errors.T, factors[group, start:stop, stop:], alpha=-1)
    return new.masked_fill_(~mask, 0.0).to(weight.dtype), mask


def _blocks(
    width: int, inputs: int, runs: tuple[int, int] | None, block: int
) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Start and stop of every block, and of the spans in it within which entries compete."""
    if runs is None:
        for start in range(0, width, block):
            stop = min(start + block, width)
            yield start, stop, [(start, stop)]
        return
    of = runs[1]
    spans = [
        (at, min(at + of, place + inputs))
        for place in range(0, width, inputs)
        for at in range(place, place + inputs, of)
    ]
    each = max(1, block // of)
    for first in range(0, len(spans), each):
        some = spans[first : first + each]
        yield some[0][0], some[-1][1], some


class _Budget:
    """Zeros still to be had, spread evenly over the entries still to come."""

    def __init__(self, zeros: int, held: Tensor) -> None:
        self.zeros = zeros
        self.entries = held.numel()
        self.already = self.entries - int(held.sum())

    def take(self, entries: int, already: int) -> int:
        """How many of so many entries go, of which some are zero already."""
        share = math.floor(self.zeros * entries / max(self.entries, 1) + 1e-9)
        self.entries -= entries
        self.already -= already
        count = min(max(share, already), self.zeros - self.already, entries)
        # What comes cannot hold more zeros than it has entries.
        count = max(count, self.zeros - self.entries)
        self.zeros -= count
        return count


def _kept(scores: Tensor, held: Tensor, runs: tuple[int, int] | None, budget: _Budget) -> Tensor:
    scores = scores.masked_fill(~held, -math.inf)
    if runs is None:
        flat = scores.flatten()
        gone = _lowest(flat, budget.take(flat.numel(), int((~held).sum())))
        return ~gone.view_as(scores)
    keep = min(runs[0], scores.shape[1])
    order = scores.argsort(dim=1, stable=True)
    kept = torch.ones_like(scores, dtype=torch.bool)
    return kept.scatter_(1, order[:, : scores.shape[1] - keep], False) & held


def _lowest(values: Tensor, count: int) -> Tensor:
    """Which so many values are the lowest; of equal ones, those of the lowest index."""
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    # Selecting is cheaper than sorting.
    limit = values.kthvalue(count).values
    gone = values < limit
    ties = (values == limit).nonzero()[: count - int(gone.sum()), 0]
    gone[ties] = True
    return gone
