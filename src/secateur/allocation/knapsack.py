"""Knapsack: the least lost under the budget, by integer programming."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from secateur.allocation.base import ALLOCATIONS
from secateur.allocation.curves import Curve, Sensitivity, checked_ratios
from secateur.allocation.exchange import Tally, improved, repaired
from secateur.allocation.global_ import Global
from secateur.allocation.groups import judged_order
from secateur.allocation.problem import Amounts, Problem
from secateur.allocation.searching import Searching, scaled, whole
from secateur.allocation.sensitivity import Table, as_table, check_fits, scan
from secateur.errors import InputError, require, suggestion

__all__ = ["Knapsack", "Losses"]

Losses = Literal["scores", "measured"]

NODES = 2000
"""Branches that the solver may try; it stops there with the best found, the same on every run."""

IMPROVED = 2
"""Of the solutions found, so many of the best are improved by exchanges."""


@ALLOCATIONS.register("knapsack", "latency")
class Knapsack(Searching):
    """As much saliency as the budget can hold: a multiple-choice knapsack over all groups.

    As in HALP, Shen et al. 2021 (arXiv:2110.10811), with the cost of whichever budget; HALP's is
    latency, so ``allocation="latency"`` is another name. Saliency
    is what the criterion says, made comparable between groups as by ``global``; a group that
    loses a units loses the sum of its a lowest scores. Or it is measured: what `evaluate` says of
    the model that loses so much of that group and nothing else, as in a sensitivity scan. Exactly
    one amount is chosen for every group, such that the least is lost and the budget is met, by
    the HiGHS solver of SciPy.

    What one group costs depends on what others lose, so costs are linearised around a solution
    and solved anew until that repeats. The last solution is repaired to meet the budget exactly,
    the best are improved by exchanges between groups, and the best of those is taken. Where costs
    do not depend on each other it is the optimum. Needs ``pip install 'secateur[search]'``.

    Parameters
    ----------
    choices : int, default 32
        Amounts of every group that are weighed against each other at most, evenly spaced;
        exchanges consider all.
    rounds : int, default 10
        Linearisations at most, from each of the three starts: the dense model, and what
        ``uniform`` and ``global`` choose.
    losses : {"scores", "measured"}, default "scores"
        Where the saliency comes from. Measured losses are added up over groups, so `evaluate`
        should be what adds up: the negative of a loss rather than an accuracy, which cannot fall
        below chance.
    steps : int, default 9
        Shares of every group that are tried out for ``"measured"``: 9 are 0.1 to 0.9. Losses lie
        on straight lines in between, and grow in proportion beyond.
    table : str or Sensitivity, optional
        For ``"measured"``, a scan that was made before, or the path of its JSON: nothing is tried
        out then.

    Raises
    ------
    MissingExtraError
        When SciPy is not installed.
    """

    name = "knapsack"

    def __init__(
        self,
        choices: int = 32,
        rounds: int = 10,
        losses: Losses = "scores",
        steps: int = 9,
        table: Table = None,
    ) -> None:
        if losses not in get_args(Losses):
            raise InputError(
                f"allocation 'knapsack': unknown losses {losses!r}"
                + suggestion(str(losses), get_args(Losses))
            )
        self.losses = losses
        if table is not None and losses != "measured":
            raise InputError("allocation 'knapsack': table= is for losses='measured'")
        self.steps = whole(self.name, "steps", steps, 1)
        self.table = table
        self.choices = whole(self.name, "choices", choices, 2)
        self.rounds = whole(self.name, "rounds", rounds, 1)

    @property
    def spec(self) -> str:
        """The line of text that builds an equal one; a table from memory has no name to give."""
        if isinstance(self.table, Sensitivity):
            return type(self)(self.choices, self.rounds, self.losses, self.steps).spec
        return super().spec

    def amounts(self, problem: Problem) -> Amounts:
        if problem.met(problem.none):
            return problem.none
        losses = self._measured(problem) if self.losses == "measured" else self._scored(problem)
        tally = Tally(problem, losses)
        even = scaled(problem, np.ones(len(problem.groups)))
        starts = [problem.none, even, Global().amounts(problem)]
        found = set(starts[1:])
        for start in starts:
            seen = {start}
            for _ in range(self.rounds):
                start = self._solved(problem, losses, start)
                if problem.met(start):
                    found.add(start)
                if start in seen:
                    break
                seen.add(start)
            found.add(repaired(tally, start))
        ranked = sorted(found, key=lambda amounts: (tally.loss(amounts), amounts))
        better = [improved(tally, amounts) for amounts in ranked[:IMPROVED]]
        return min(better, key=lambda amounts: (tally.loss(amounts), amounts))

    def _measured(self, problem: Problem) -> list[np.ndarray]:
        """Per group, by how much `evaluate` falls with every amount, from 0 units on."""
        table = as_table(self.table)
        if table is None:
            shares = [step / (self.steps + 1) for step in range(1, self.steps + 1)]
            table = scan(problem, checked_ratios(shares), self.name)
        for group in problem.groups:
            check_fits(table, self.name, group.name, len(group.scores))
        return [_along(table[group.name]) for group in problem.groups]

    def _scored(self, problem: Problem) -> list[np.ndarray]:
        """Per group, the saliency that is lost with every amount, from 0 units on."""
        ranking, losses = Global(), []
        for group in problem.groups:
            ascending = np.asarray(group.scores, dtype=np.float64)[judged_order(group)]
            keys = ranking.keys(group, ascending, ascending)
            weights = np.ones(len(keys)) if group.weights is None else group.weights[:1]
            losses.append(np.concatenate([[0.0], np.cumsum(keys * weights)]))
        return losses

    def _solved(self, problem: Problem, losses: list[np.ndarray], around: Amounts) -> Amounts:
        """The optimum where costs are what they are near a solution."""
        scipy = require("scipy.optimize", "search")
        sparse = require("scipy.sparse", "search")
        pairs = zip(problem.allowed, around, strict=True)
        menus = [self._menu(counts, own) for counts, own in pairs]
        here = problem.cost(around)
        measures = list(problem.budget)
        owners, lost, costs = [], [], []
        for group, menu in enumerate(menus):
            for count in menu:
                cost = problem.cost((*around[:group], count, *around[group + 1 :]))
                owners.append(group)
                lost.append(losses[group][count])
                costs.append([(cost[key] - here[key]) / problem.budget[key] for key in measures])
        one_each = sparse.csr_array(
            (np.ones(len(owners)), (owners, range(len(owners)))), shape=(len(menus), len(owners))
        )
        room = [(problem.budget[key] - here[key]) / problem.budget[key] for key in measures]
        scale = max(float(np.abs(lost).max()), 1e-300)
        result: Any = scipy.milp(
            np.asarray(lost) / scale,
            integrality=np.ones(len(owners)),
            bounds=scipy.Bounds(0, 1),
            constraints=[
                scipy.LinearConstraint(one_each, 1, 1),
                scipy.LinearConstraint(np.asarray(costs).T, -np.inf, np.asarray(room) + 1e-12),
            ],
            options={"mip_rel_gap": 0.0, "node_limit": NODES},
        )
        if result.x is None:
            # Even all that may go is not enough by these costs: they are too kind elsewhere.
            return problem.most
        taken = np.split(result.x, np.cumsum([len(menu) for menu in menus])[:-1])
        return tuple(menu[int(np.argmax(part))] for menu, part in zip(menus, taken, strict=True))

    def _menu(self, counts: np.ndarray, own: int) -> list[int]:
        """Amounts to choose from, among them all that may go, none, and the present one."""
        at = np.linspace(0, len(counts) - 1, min(self.choices, len(counts)))
        return sorted({*counts[np.round(at).astype(int)].tolist(), own})


def _along(curve: Curve) -> np.ndarray:
    """Damage at every amount, ``[units + 1]``: beyond the last trial in proportion."""
    amounts = np.arange(curve.size + 1)
    tried, damage = np.array([0, *curve.amounts]), np.array([0.0, *curve.damage])
    beyond = damage[-1] / max(tried[-1], 1) * np.maximum(amounts - tried[-1], 0)
    return np.interp(amounts, tried, damage) + beyond
