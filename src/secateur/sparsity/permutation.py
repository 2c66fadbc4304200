"""Which order of input channels lets N:M keep most: a bounded search."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from secateur.sparsity.nm import nm_mask

__all__ = ["best_order", "ideal", "retained"]

# More rows than this say little more about columns; the result is judged on all of them.
ROWS = 2048
# Entries of a column of all pairs that are compared at once: they then stay in cache.
CHUNK = 1 << 14
# Ways to part two runs of columns that are tried: all 35 of runs of four.
PARTINGS = 35


def retained(matrix: Tensor, keep: int, of: int) -> float:
    """Sum of the entries that N:M keeps, ``[rows, columns]`` of absolute values."""
    mask = nm_mask(matrix, keep, of)
    return float((matrix * mask).sum(dtype=torch.float64))


def ideal(matrix: Tensor, keep: int, of: int) -> float:
    """Sum of the same share of every row, wherever it lies: what no order can exceed."""
    count = matrix.shape[1] * keep // of
    return float(matrix.topk(count, dim=1).values.sum(dtype=torch.float64))


def best_order(matrix: Tensor, keep: int, of: int, rounds: int, seed: int) -> Tensor:
    """An order of columns under which N:M retains at least as much as now.

    Runs of columns are paired at random, again and again; of every pair the columns are dealt out
    anew in the best of the ways to do so.

    Parameters
    ----------
    matrix : Tensor, shape [rows, columns]
        Absolute values; ``of`` divides the columns.
    keep, of : int
    rounds : int
        At most so many pairings; the search ends early after a tenth of them without gain.
    seed : int

    Returns
    -------
    Tensor of int64, shape [columns]

    Examples
    --------
    >>> rows = torch.tensor([[9.0, 8.0, 7.0, 6.0, 0.0, 0.0, 0.0, 0.0]])
    >>> retained(rows, 2, 4), retained(rows[:, best_order(rows, 2, 4, 20, 0)], 2, 4)
    (17.0, 30.0)
    """
    generator = torch.Generator().manual_seed(seed)
    step = -(-matrix.shape[0] // ROWS)
    columns = matrix[::step].float().cpu().T.contiguous()
    order = torch.arange(len(columns))
    runs = len(columns) // of
    first, second = _partings(of, generator)
    idle = 0
    for _ in range(rounds if runs > 1 else 0):
        dealt = torch.randperm(runs, generator=generator)[: runs - runs % 2].reshape(-1, 2)
        stripes = order.reshape(runs, of)
        both = torch.cat([stripes[dealt[:, 0]], stripes[dealt[:, 1]]], dim=1)
        gained = False
        wide = max(1, CHUNK // columns.shape[1])
        for at in range(0, len(both), wide):
            pairs = both[at : at + wide]
            held = columns[pairs]
            totals = _totals(held, first, keep) + _totals(held, second, keep)
            best = totals.argmax(dim=1)
            # The first way leaves the pair as it is; rounding is no gain.
            better = totals.gather(1, best[:, None])[:, 0] > totals[:, 0] * (1 + 1e-6)
            gained |= bool(better.any())
            best = torch.where(better, best, 0)
            rows = torch.arange(len(pairs))[:, None]
            stripes[dealt[at : at + wide, 0]] = pairs[rows, first[best]]
            stripes[dealt[at : at + wide, 1]] = pairs[rows, second[best]]
        order = stripes.flatten()
        idle = 0 if gained else idle + 1
        if idle > max(rounds // 10, 2):
            break
    whole = matrix.float()
    after = retained(whole[:, order.to(whole.device)], keep, of)
    return order if after >= retained(whole, keep, of) else torch.arange(len(columns))


def _partings(of: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ways to part ``2 * of`` columns in two halves, as they are first."""
    rest = range(1, 2 * of)
    if of <= 4:
        halves = [(0, *chosen) for chosen in itertools.combinations(rest, of - 1)]
    else:
        drawn = (torch.randperm(2 * of, generator=generator)[:of] for _ in range(PARTINGS - 1))
        halves = [tuple(range(of)), *(tuple(sorted(half.tolist())) for half in drawn)]
    others = [tuple(at for at in range(2 * of) if at not in half) for half in halves]
    return torch.tensor(halves), torch.tensor(others)


def _totals(pairs: Tensor, halves: Tensor, keep: int) -> Tensor:
    """What every way to choose half of a pair's columns retains over all rows, ``[pairs, ways]``.

    Parameters
    ----------
    pairs : Tensor, shape [pairs, 2 * of, rows]
    halves : Tensor, shape [ways, of]
    """
    totals = []
    if keep == 2 and halves.shape[1] == 4:
        columns = pairs.unbind(1)
        twos = list(itertools.combinations(range(len(columns)), 2))
        both = {(i, j): columns[i] + columns[j] for i, j in twos}
        higher = {(i, j): torch.maximum(columns[i], columns[j]) for i, j in twos}
        for a, b, c, d in halves.tolist():
            # The two highest are one pair, or the other, or the higher of each.
            top = torch.maximum(both[a, b], both[c, d])
            totals.append(torch.maximum(top, higher[a, b] + higher[c, d]).sum(-1))
    else:
        for half in halves:
            totals.append(pairs[:, half].topk(keep, dim=1).values.sum((1, 2)))
    return torch.stack(totals, dim=1)
