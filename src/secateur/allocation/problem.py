"""What an allocation decides on: how much each group may lose, and what is left then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from secateur.allocation.groups import GroupScores
from secateur.errors import InputError

__all__ = ["Amounts", "Problem", "no_evaluate"]

Amounts = tuple[int, ...]
"""How many units every group loses."""


@dataclasses.dataclass
class Problem:
    """Groups, a budget, and what any choice of amounts costs and is worth.

    Within a group the criterion has settled which units go first, so amounts say it all.

    Attributes
    ----------
    groups : list of GroupScores
    allowed : list of ndarray of int
        Numbers of units that each group may lose, ascending, from 0 on.
    cost : callable
        Amounts -> measure -> cost, as ``{"macs": 1e9, "params": 1e6, "bytes": 4e6}``.
    budget : dict
        Measure -> the most that may be left of it, in its own unit.
    evaluate : callable or None
        Amounts -> how good the model is that loses them, higher is better: the caller's own
        function on a pruned copy. None where none was given.
    evaluate_many : callable or None
        The same of several amounts at once, by several workers maybe: ``(index, value)`` of each
        as it becomes known. One after the other if None.
    seed : int
        Of everything random.

    Examples
    --------
    >>> groups = [GroupScores("a", np.array([3.0, 1.0, 2.0]))]
    >>> def cost(amounts):
    ...     return {"macs": 9.0 - amounts[0]}
    >>> problem = Problem(groups, [np.arange(3)], cost, {"macs": 7})
    >>> problem.met((1,)), problem.met((2,)), problem.most
    (False, True, (2,))
    """

    groups: list[GroupScores]
    allowed: list[np.ndarray]
    cost: Callable[[Amounts], dict[str, float]]
    budget: dict[str, float]
    evaluate: Callable[[Amounts], float] | None = None
    seed: int = 0
    evaluate_many: Callable[[Sequence[Amounts]], Iterator[tuple[int, float]]] | None = None

    @property
    def none(self) -> Amounts:
        """Nothing goes."""
        return (0,) * len(self.groups)

    @property
    def most(self) -> Amounts:
        """Everything goes that may."""
        return tuple(int(counts[-1]) for counts in self.allowed)

    def met(self, amounts: Amounts) -> bool:
        """Whether what is left keeps to the budget."""
        cost = self.cost(amounts)
        return all(cost[measure] <= most + 1e-9 for measure, most in self.budget.items())

    def unused(self, amounts: Amounts) -> float:
        """What is left of the budget, of its tightest measure, as a share of the dense cost."""
        dense, cost = self.cost(self.none), self.cost(amounts)
        return min(
            (
                (most - cost[measure]) / max(dense[measure], 1e-300)
                for measure, most in self.budget.items()
            ),
            default=0.0,
        )

    def floor(self, amounts: Sequence[float]) -> Amounts:
        """The most that may go of every group without passing these amounts."""
        return tuple(
            int(counts[np.searchsorted(counts, amount + 1e-9, side="right") - 1])
            for counts, amount in zip(self.allowed, amounts, strict=True)
        )

    def value(self, amounts: Amounts, asks: str) -> float:
        """How good the model is that loses so much.

        Raises
        ------
        InputError
            When no `evaluate` was given.
        """
        return self.values([amounts], asks)[0]

    def values(self, listed: Sequence[Amounts], asks: str) -> list[float]:
        """How good each of several models is; on several workers, where the caller has them.

        Parameters
        ----------
        listed : sequence of tuple of int
            What each of the models loses; they are told apart by nothing else.
        asks : str
            The allocation that asks, for messages.

        Raises
        ------
        InputError
            When no `evaluate` was given.
        """
        found = dict(self.each(listed, asks))
        return [found[index] for index in range(len(listed))]

    def each(self, listed: Sequence[Amounts], asks: str) -> Iterator[tuple[int, float]]:
        """As `values`, but ``(index, value)`` of each model as it becomes known, in any order."""
        if self.evaluate is None:
            raise no_evaluate(asks)
        if self.evaluate_many is not None:
            yield from self.evaluate_many(listed)
        else:
            for index, amounts in enumerate(listed):
                yield index, self.evaluate(amounts)


def no_evaluate(asks: str) -> InputError:
    """The error of an allocation that has nothing to try models out by."""
    return InputError(
        f"allocation {asks!r} tries models out: pass evaluate=, a function from a model "
        "to a number, higher is better, such as accuracy on a split kept for it"
    )
