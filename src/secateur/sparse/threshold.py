"""Where to cut a ranking of units over many tensors, without ever holding all scores at once.

Scores become integers of the same order; a histogram of their upper halves finds the half in
which the cut lies, a second one the exact score. Each takes one pass over scores that are made
anew, so memory depends on the largest tensor alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

__all__ = ["Cut", "find_cut", "ordered"]

HALF = 1 << 16

Ranked = tuple[Tensor, "Tensor | None"]
"""Scores of one tensor's units, and the entries of every unit where those differ."""


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
    # Adding zero turns minus zero into zero.
    plain = (scores.detach().float().flatten() + 0.0).cpu()
    bits = plain.numpy().view(np.uint32)
    negative = bits >> 31
    # Flip all bits of negative numbers, and the sign of the others.
    return bits ^ (np.uint32(0x80000000) | (np.uint32(0) - negative))


def find_cut(ranked: Callable[[], Iterable[Ranked]], entries: int, each: int) -> Cut:
    """Find the score up to which units go so that at least so many entries go.

    Parameters
    ----------
    ranked : callable
        Yields the scores of every tensor; called twice.
    entries : int
        How many entries are to go, at least one.
    each : int
        Entries of a unit, where a tensor does not say otherwise.
    """
    upper = np.zeros(HALF, dtype=np.int64)
    for scores, sizes in ranked():
        upper += _histogram(ordered(scores) >> np.uint32(16), sizes, each)
    high, before = _place(upper, entries)
    lower = np.zeros(HALF, dtype=np.int64)
    for scores, sizes in ranked():
        keys = ordered(scores)
        inside = (keys >> np.uint32(16)) == high
        chosen = None if sizes is None else sizes.flatten()[torch.from_numpy(inside)]
        lower += _histogram(keys[inside] & np.uint32(HALF - 1), chosen, each)
    low, below = _place(lower, entries - before)
    return Cut(high * HALF + low, entries - before - below)


def _histogram(keys: np.ndarray, sizes: Tensor | None, each: int) -> np.ndarray:
    if sizes is None:
        return np.bincount(keys, minlength=HALF) * each
    counts = np.bincount(keys, weights=sizes.flatten().numpy(), minlength=HALF)
    return counts.astype(np.int64)


def _place(histogram: np.ndarray, entries: int) -> tuple[int, int]:
    """The first bin with which enough entries go, and how many go before it."""
    sums = np.cumsum(histogram)
    at = min(int(np.searchsorted(sums, entries)), len(sums) - 1)
    return at, int(sums[at] - histogram[at])
