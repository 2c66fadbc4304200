"""Local improvement of amounts: units of one group stay, units of another go instead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.allocation.problem import Amounts, Problem
from secateur.allocation.searching import Excess

__all__ = ["Tally", "improved", "repaired"]

SWEEPS = 8


class Tally:
    """A problem, and what is lost with every amount of every group.

    Parameters
    ----------
    problem : Problem
    losses : sequence of ndarray, shape [units + 1]
        Loss by how many units of the group go, never falling but for negative scores.
    """

    def __init__(self, problem: Problem, losses: Sequence[np.ndarray]) -> None:
        self.problem, self.losses = problem, losses
        self.excess = Excess(problem)

    def loss(self, amounts: Amounts) -> float:
        """What is lost in all."""
        return float(
            sum(losses[amount] for losses, amount in zip(self.losses, amounts, strict=True))
        )


def repaired(tally: Tally, amounts: Amounts) -> Amounts:
    """More goes, the least lost per cost saved first, until the budget is met."""
    while not tally.problem.met(amounts):
        loss, excess = tally.loss(amounts), tally.excess(amounts)
        rated = []
        for group, counts in enumerate(tally.problem.allowed):
            ahead = counts[counts > amounts[group]]
            if len(ahead):
                more = (*amounts[:group], int(ahead[0]), *amounts[group + 1 :])
                saved = max(excess - tally.excess(more), 1e-12)
                rated.append(((tally.loss(more) - loss) / saved, group, more))
        amounts = min(rated)[2]
    return amounts


def improved(tally: Tally, amounts: Amounts) -> Amounts:
    """What can stay stays, and groups exchange units, while less is lost and the budget met.

    Parameters
    ----------
    tally : Tally
    amounts : tuple of int
        Meet the budget.

    Returns
    -------
    tuple of int
        Meet it too. Unless `SWEEPS` were not enough, no step back of a group loses less, nor does
        one that the least of one other group makes up for.
    """
    for _ in range(SWEEPS):
        before = amounts
        for back in range(len(amounts)):
            while (better := _better(tally, amounts, back)) is not None:
                amounts = better
        if amounts == before:
            break
    return amounts


def _better(tally: Tally, amounts: Amounts, back: int) -> Amounts | None:
    """A group one step back, if need be with more of another gone, where that loses less."""
    problem, losses = tally.problem, tally.losses
    counts = problem.allowed[back]
    at = int(np.searchsorted(counts, amounts[back]))
    if at == 0:
        return None
    less = (*amounts[:back], int(counts[at - 1]), *amounts[back + 1 :])
    saved = losses[back][amounts[back]] - losses[back][less[back]]
    if saved <= 0:
        return None
    if problem.met(less):
        return less
    for group, counts in enumerate(problem.allowed):
        lost = losses[group][counts] - losses[group][amounts[group]]
        # Only as long as the exchange loses less.
        more = counts[(counts > amounts[group]) & (lost < saved * (1 - 1e-9))]
        low, high = 0, len(more)
        while low < high and group != back:
            middle = (low + high) // 2
            if problem.met((*less[:group], int(more[middle]), *less[group + 1 :])):
                high = middle
            else:
                low = middle + 1
        if group != back and low < len(more):
            return (*less[:group], int(more[low]), *less[group + 1 :])
    return None
