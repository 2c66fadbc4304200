"""SparseGPT: choose and repair in one sweep over the columns of a weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.layerwise.solve import damped, factored, inverse
from secateur.observing.moments import Moments

__all__ = ["Amount", "sweep"]


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
    factors = factored(inverse(damped(moments, damp))).mT
    new = weight.double()
    held = torch.ones_like(weight, dtype=torch.bool) if held is None else held
    mask = held.clone()
    budget = _Budget(amount.zeros, held)
    for group in range(len(new)):
        # Inputs that never were anything else than zero need no weight, and cost none.
        for start, stop, spans in _blocks(new.shape[2], inputs, amount.runs, block):
            columns, factor = new[group, :, start:stop], factors[group]
            errors = torch.zeros_like(columns)
            ends = dict(spans)
            for at in range(start, stop):
                if at in ends:
                    part = new[group, :, at : ends[at]]
                    scores = (part / factor.diagonal()[at : ends[at]]).square()
                    chosen = held[group, :, at : ends[at]]
                    mask[group, :, at : ends[at]] = _kept(scores, chosen, amount.runs, budget)
                column = at - start
                lost = torch.where(mask[group, :, at], 0.0, columns[:, column])
                errors[:, column] = lost / factor[at, at]
                columns[:, column:] -= errors[:, column, None] * factor[at, at:stop]
            new[group, :, stop:] -= errors @ factor[start:stop, stop:]
    return torch.where(mask, new, 0.0).to(weight.dtype), mask


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
        gone = flat.argsort(stable=True)[: budget.take(flat.numel(), int((~held).sum()))]
        kept = torch.ones_like(flat, dtype=torch.bool)
        kept[gone] = False
        return kept.view_as(scores)
    keep = min(runs[0], scores.shape[1])
    order = scores.argsort(dim=1, stable=True)
    kept = torch.ones_like(scores, dtype=torch.bool)
    return kept.scatter_(1, order[:, : scores.shape[1] - keep], False) & held
