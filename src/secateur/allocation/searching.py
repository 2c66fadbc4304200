"""What allocations share that search for amounts instead of ranking units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from secateur.allocation.base import Allocation
from secateur.allocation.groups import GroupScores
from secateur.allocation.problem import Amounts, Problem

__all__ = ["Excess", "Searching", "onwards", "scaled"]


class Searching(Allocation):
    """Base of allocations that search for amounts; as an order they are uniform."""

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return shares


class Excess:
    """By how much a choice still exceeds the budget, as a share of the dense model.

    Of several measures the one that is furthest off counts.

    Examples
    --------
    >>> problem = Problem([GroupScores("a", np.arange(4.0))], [np.arange(4)],
    ...                   lambda amounts: {"macs": 8.0 - 2 * amounts[0]}, {"macs": 4})
    >>> Excess(problem)((0,)), Excess(problem)((2,))
    (0.5, 0.0)
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.dense = problem.cost(problem.none)

    def __call__(self, amounts: Amounts) -> float:
        cost = self.problem.cost(amounts)
        return max(
            (cost[measure] - most) / max(self.dense[measure], 1e-300)
            for measure, most in self.problem.budget.items()
        )

    def within(self, amounts: Amounts, target: float) -> bool:
        """Whether no more than a target is left; a target of 0 is the budget itself."""
        return self.problem.met(amounts) if target <= 0 else self(amounts) <= target + 1e-9


def scaled(problem: Problem, shares: Sequence[float]) -> Amounts:
    """The least multiple of positive shares, each up to all that may go, that meets the budget.

    Examples
    --------
    >>> problem = Problem([GroupScores(name, np.arange(8.0)) for name in "ab"], [np.arange(8)] * 2,
    ...                   lambda amounts: {"macs": 16.0 - sum(amounts)}, {"macs": 7})
    >>> scaled(problem, [1, 2]), scaled(problem, [1, 100])
    ((3, 6), (2, 7))
    """
    wanted = np.asarray(shares, dtype=np.float64) * problem.most
    # At this multiple even the smallest share is whole.
    return _least(problem, lambda t: problem.floor(np.minimum(t * wanted, problem.most).tolist()),
                  1 / min(shares))  # fmt: skip


def onwards(problem: Problem, amounts: Amounts) -> Amounts:
    """From these amounts towards all that may go, as far as the budget asks.

    Examples
    --------
    >>> problem = Problem([GroupScores(name, np.arange(8.0)) for name in "ab"], [np.arange(8)] * 2,
    ...                   lambda amounts: {"macs": 16.0 - sum(amounts)}, {"macs": 7})
    >>> onwards(problem, (7, 0)), onwards(problem, (7, 5))
    ((7, 2), (7, 5))
    """
    here, most = np.asarray(amounts), np.asarray(problem.most)
    return _least(problem, lambda t: problem.floor((here + t * (most - here)).tolist()), 1.0)


def _least(problem: Problem, at: Callable[[float], Amounts], high: float) -> Amounts:
    """Where a path that meets the budget at its end does so first."""
    low = 0.0
    if problem.met(at(low)):
        return at(low)
    while at(low) != at(high) and high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if problem.met(at(middle)) else (middle, high)
    return at(high)
