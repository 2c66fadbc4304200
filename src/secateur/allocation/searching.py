"""What allocations share that search for amounts instead of ranking units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.allocation.base import Allocation
from secateur.allocation.groups import GroupScores
from secateur.allocation.problem import Amounts, Problem
from secateur.errors import InputError

__all__ = ["Excess", "Searching", "onwards", "scaled", "shares_of", "whole"]


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


def whole(allocation: str, option: str, value: object, least: int) -> int:
    """An option that has to be an integer of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"allocation {allocation!r}: {option}={value!r} must be an integer of at least {least}"
        )
    return value


def shares_of(problem: Problem, amounts: Amounts) -> np.ndarray:
    """What every group loses of all that it may; a hundredth at least, so that it can be scaled."""
    return np.clip(np.asarray(amounts) / np.maximum(problem.most, 1), 0.01, 1.0)


def scaled(problem: Problem, shares: Sequence[float] | np.ndarray) -> Amounts:
    """The least multiple of positive shares, each up to all that may go, that meets the budget.

    Examples
    --------
    >>> problem = Problem([GroupScores(name, np.arange(8.0)) for name in "ab"], [np.arange(8)] * 2,
    ...                   lambda amounts: {"macs": 16.0 - sum(amounts)}, {"macs": 7})
    >>> scaled(problem, [1, 2]), scaled(problem, [1, 100])
    ((3, 6), (2, 7))
    """
    return _least(problem, np.zeros(len(problem.most)), np.asarray(shares) * problem.most)


def onwards(problem: Problem, amounts: Amounts) -> Amounts:
    """From these amounts towards all that may go, as far as the budget asks.

    Examples
    --------
    >>> problem = Problem([GroupScores(name, np.arange(8.0)) for name in "ab"], [np.arange(8)] * 2,
    ...                   lambda amounts: {"macs": 16.0 - sum(amounts)}, {"macs": 7})
    >>> onwards(problem, (7, 0)), onwards(problem, (7, 5))
    ((7, 2), (7, 5))
    """
    here = np.asarray(amounts, dtype=np.float64)
    return _least(problem, here, problem.most - here)


def _least(problem: Problem, start: np.ndarray, rates: np.ndarray) -> Amounts:
    """Where the budget is met first on the way from `start`, at these rates, to all that may go."""

    def at(time: float) -> Amounts:
        return problem.floor(np.minimum(start + time * rates, problem.most).tolist())

    # Only where a group comes to its next allowed amount does anything change.
    times = np.unique(np.concatenate([[0.0], *(
        (counts[counts > first] - first) / rate
        for counts, first, rate in zip(problem.allowed, start, rates, strict=True)
        if rate > 0
    )]))  # fmt: skip
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        if problem.met(at(times[middle])):
            high = middle
        else:
            low = middle + 1
    return at(times[low])
