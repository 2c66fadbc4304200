"""Where to cut a ranking of units over many tensors, without ever holding all scores at once.

Scores become integers of the same order; a histogram of their upper halves finds the half in
which the cut lies, a second one the exact score. Each takes one pass over scores that are made
anew, run by run, so memory does not grow with the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

__all__ = ["RUN", "Cut", "Ranked", "find_cut", "ordered"]

# Units whose scores stay in cache while they are ranked.
RUN = 1 << 19
HALF = 1 << 16

SIGN = np.uint32(1 << 31)

Ranked = tuple[Tensor, "Tensor | int"]
"""Scores of a run of units, and the entries of every unit, one number where all have as many."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """What goes: every unit below a score, and the first few of those that equal it.

    Attributes
    ----------
    key : int
        The score, as `ordered` gives it.
    equal : int
        Entries still to go among the units of exactly this score, lowest index first.
    """

    key: int
    equal: int


def ordered(scores: Tensor) -> np.ndarray:
    """Scores as unsigned 32-bit integers in the same order; both zeros are one.

    Examples
    --------
    >>> keys = ordered(torch.tensor([-1.0, -0.0, 0.0, 1e-30, 2.0]))
    >>> bool((np.diff(keys.astype(np.int64)) >= 0).all()), bool(keys[1] == keys[2])
    (True, True)
    """
    plain = scores.detach().float().flatten().cpu().numpy()
    bits = plain.view(np.uint32)
    if bits.max(initial=0) < SIGN:
        return bits | SIGN
    # Adding zero turns minus zero into zero.
    bits = (plain + np.float32(0)).view(np.uint32)
    # Flip all bits of negative numbers, and the sign of the others.
    return bits ^ (SIGN | (np.uint32(0) - (bits >> 31)))


def find_cut(ranked: Callable[[], Iterable[Ranked]], entries: int) -> Cut:
    """Find the score up to which units go so that at least so many entries go.

    Parameters
    ----------
    ranked : callable
        Yields the scores, run by run; called twice. A run may be overwritten by the next.
    entries : int
        How many entries are to go, at least one.

    Examples
    --------
    >>> find_cut(lambda: [(torch.zeros(3), 2), (torch.ones(4), 1)], 8).equal
    2
    """
    upper = np.zeros(HALF, dtype=np.int64)
    for scores, sizes in ranked():
        upper += _histogram(ordered(scores) >> np.uint32(16), sizes)
    high, before = _place(upper, entries)
    lower = np.zeros(HALF, dtype=np.int64)
    for scores, sizes in ranked():
        keys = ordered(scores)
        inside = np.flatnonzero((keys >> np.uint32(16)) == high)
        chosen = sizes if isinstance(sizes, int) else sizes.flatten()[torch.from_numpy(inside)]
        lower += _histogram(keys[inside] & np.uint32(HALF - 1), chosen)
    low, below = _place(lower, entries - before)
    return Cut(high * HALF + low, entries - before - below)


def _histogram(keys: np.ndarray, sizes: Tensor | int) -> np.ndarray:
    if isinstance(sizes, int):
        return np.bincount(keys, minlength=HALF) * sizes
    counts = np.bincount(keys, weights=sizes.flatten().numpy(), minlength=HALF)
    return counts.astype(np.int64)


def _place(histogram: np.ndarray, entries: int) -> tuple[int, int]:
    """The first bin with which enough entries go, and how many go before it."""
    sums = np.cumsum(histogram)
    at = min(int(np.searchsorted(sums, entries)), len(sums) - 1)
    return at, int(sums[at] - histogram[at])
