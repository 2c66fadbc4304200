"""Evolution: the fittest of amounts that meet the budget, crossed and mutated."""

from __future__ import annotations

import numpy as np

from secateur.allocation.base import ALLOCATIONS
from secateur.allocation.global_ import Global
from secateur.allocation.problem import Amounts, Problem
from secateur.allocation.searching import Searching, scaled, shares_of, whole

__all__ = ["Evolution"]

SPREAD = 0.25


@ALLOCATIONS.register("evolution")
class Evolution(Searching):
    """An evolutionary search over amounts, every one of which just meets the budget.

    A population starts from what ``uniform`` and ``global`` choose and from random shares. In
    every generation, as many children as there are parents are tried out: each crosses two
    parents, both the better of two drawn at random, changes about one group's share by normal
    noise, and is scaled to the budget. The best of parents and children live on, so the result
    is never worse than what ``uniform`` and ``global`` choose. As in the search for networks of
    Real et al. 2019 (arXiv:1802.01548), but over amounts, and without ageing.

    Parameters
    ----------
    population : int, default 16
    generations : int, default 10
        At most ``population * (generations + 1)`` models are evaluated.

    Examples
    --------
    >>> from secateur.allocation import GroupScores
    >>> groups = [GroupScores(name, np.arange(9.0)) for name in ("matters", "does not")]
    >>> problem = Problem(
    ...     groups, [np.arange(9)] * 2, lambda amounts: {"macs": 18.0 - sum(amounts)}, {"macs": 9},
    ...     evaluate=lambda amounts: 1.0 - 0.2 * amounts[0] - 0.1 * amounts[1],
    ... )
    >>> Evolution().amounts(problem)
    (1, 8)
    """

    name = "evolution"

    def __init__(self, population: int = 16, generations: int = 10) -> None:
        self.population = whole(self.name, "population", population, 4)
        self.generations = whole(self.name, "generations", generations, 1)

    def amounts(self, problem: Problem) -> Amounts:
        random = np.random.default_rng(problem.seed)
        values: dict[Amounts, float] = {}

        def ranked(choices: list[Amounts]) -> list[Amounts]:
            """Those tried so far and these, the best first; of equals, the one tried first."""
            fresh = [amounts for amounts in dict.fromkeys(choices) if amounts not in values]
            values.update(zip(fresh, problem.values(fresh, self.name), strict=True))
            return sorted(values, key=lambda amounts: -values[amounts])

        width = len(problem.groups)
        first = [scaled(problem, np.ones(width)), Global().amounts(problem)]
        drawn = random.uniform(0.05, 1.0, (self.population - len(first), width))
        living = ranked([*first, *(scaled(problem, shares) for shares in drawn)])
        for _ in range(self.generations):
            living = living[: self.population]
            living = ranked([self._child(problem, living, random) for _ in living])
        return living[0]

    def _child(
        self, problem: Problem, living: list[Amounts], random: np.random.Generator
    ) -> Amounts:
        # They are sorted: the better of two is the one of lower index.
        pairs = random.integers(len(living), size=(2, 2)).min(axis=1)
        mother, father = (shares_of(problem, living[parent]) for parent in pairs)
        shares = np.where(random.random(len(mother)) < 0.5, mother, father)
        changed = random.random(len(shares)) < 1 / len(shares)
        changed[random.integers(len(shares))] = True
        noise = random.normal(0.0, SPREAD, len(shares))
        return scaled(problem, np.clip(shares + changed * noise, 0.01, 1.0))
