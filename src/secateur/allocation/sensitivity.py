"""The sensitivity scan: what each group can lose on its own decides what it loses."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from secateur.allocation.base import ALLOCATIONS, Allocation
from secateur.allocation.curves import Curve, Sensitivity, checked_ratios
from secateur.allocation.groups import GroupScores
from secateur.allocation.problem import Amounts, Problem
from secateur.errors import InputError

__all__ = ["SensitivityScan", "Table", "as_table", "check_fits", "scan"]

Table: TypeAlias = "str | os.PathLike[str] | Sensitivity | None"
"""A scan that was made before, or the path of its JSON; None to make one."""

# Halvings of an interval of tolerances after which its ends are neighbouring floats, nearly.
HALVINGS = 100


@ALLOCATIONS.register("sensitivity")
class SensitivityScan(Allocation):
    """Every group loses what it can lose on its own within one tolerance; the budget sets that.

    Han et al. 2015 (arXiv:1506.02626) prune each layer alone, at several shares, and choose its
    amount by how far the accuracy falls. r_i(T) is the largest share of group i whose drop, and
    that of all smaller ones, is at most T; T is the smallest with which the budget is met, and
    what only the last step of T added is given back as far as the budget allows, evenly. Groups
    are taken to do their damage independently, so judge the result as a whole.

    Parameters
    ----------
    steps : int, default 9
        Shares to try: 9 are 0.1 to 0.9.
    interpolate : bool, default False
        Let the damage grow along straight lines between the shares that were tried, so that T
        and the amounts move in small steps instead of jumps.
    table : str or Sensitivity, optional
        A scan that was made before, or the path of its JSON: nothing is tried out then.

    Attributes
    ----------
    found : Sensitivity or None
        The scan that it last went by.

    Examples
    --------
    >>> groups = [GroupScores("a", np.arange(4.0)), GroupScores("b", np.arange(4.0))]
    >>> def cost(amounts):
    ...     return {"params": 8.0 - sum(amounts)}
    >>> def accuracy(amounts):
    ...     return 0.9 - 0.1 * amounts[0] - 0.01 * amounts[1]
    >>> allowed = [np.arange(4), np.arange(4)]
    >>> problem = Problem(groups, allowed, cost, {"params": 4.0}, accuracy)
    >>> SensitivityScan(steps=3).amounts(problem)
    (1, 3)
    """

    name = "sensitivity"

    def __init__(
        self,
        steps: int = 9,
        interpolate: bool = False,
        table: Table = None,
    ) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InputError(f"allocation 'sensitivity': steps must be 1 or more, not {steps!r}")
        self.steps, self.interpolate = steps, bool(interpolate)
        self.table = table
        self.found: Sensitivity | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Shares to try."""
        return checked_ratios([step / (self.steps + 1) for step in range(1, self.steps + 1)])

    @property
    def spec(self) -> str:
        """The line of text that builds an equal one; a table from memory has no name to give."""
        if isinstance(self.table, Sensitivity):
            return type(self)(self.steps, self.interpolate).spec
        return super().spec

    def amounts(self, problem: Problem) -> Amounts:
        table = as_table(self.table)
        if table is None:
            table = scan(problem, self.ratios, self.name)
        self.found = table
        for group in problem.groups:
            check_fits(table, self.name, group.name, len(group.scores))
        # The keys of a group's units are the tolerances that let them go: the shortest sufficient
        # start of their order stops at the first tolerance that meets the budget, and trims it.
        return super(SensitivityScan, self._with(table)).amounts(problem)

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The tolerance that lets each unit go; before a scan, the same share of every group."""
        if not isinstance(self.table, Sensitivity):
            return shares
        amounts = np.arange(1, len(scores) + 1)
        return self.table[group.name].tolerance_of(amounts, self.interpolate)

    def informed(
        self, names: Sequence[str], scanned: Callable[[tuple[float, ...]], Sensitivity]
    ) -> Allocation:
        table = as_table(self.table)
        if table is None:
            table = scanned(self.ratios)
        self.found = table
        for name in names:
            check_fits(table, self.name, name)
        listed = tuple(table[name] for name in names)
        return self._with(Sensitivity(table.baseline, listed, (), "", ""))

    def sparsities(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float] | None:
        if not isinstance(self.table, Sensitivity):
            raise AssertionError("shares of weights come from a scan of them")
        curves = self.table.curves
        for curve, shape in zip(curves, shapes, strict=True):
            check_fits(self.table, self.name, curve.name, int(np.prod(shape)))
        return _shares(curves, sparsity, self.interpolate)

    def _with(self, table: Sensitivity) -> SensitivityScan:
        return type(self)(self.steps, self.interpolate, table)


def scan(
    problem: Problem,
    ratios: Sequence[float],
    asks: str,
    tick: Callable[[int, int, str], None] | None = None,
    settings: tuple[str, str] = ("", ""),
) -> Sensitivity:
    """Try out what every group costs that loses shares of its units, alone.

    Parameters
    ----------
    ratios : sequence of float
        Ascending; of every group as many units go as do not exceed the share.
    asks : str
        Who asks, for the message when there is nothing to try models out by.
    tick : callable, optional
        Called as ``tick(done, total, text)`` after every trial, in the order they end.
    settings : (str, str)
        Granularity and criterion, to note in the table.
    """
    names = [group.name for group in problem.groups]
    sizes = [len(group.scores) for group in problem.groups]
    tried: list[list[int]] = [[] for _ in names]
    for ratio in ratios:
        for at, amount in enumerate(problem.floor([ratio * size for size in sizes])):
            if amount > max(tried[at], default=0):
                tried[at].append(amount)
    # Nothing at all goes first.
    trials = [(0, 0), *((at, amount) for at, amounts in enumerate(tried) for amount in amounts)]
    listed = [
        tuple(amount if at == other else 0 for other in range(len(names))) for at, amount in trials
    ]
    found: dict[tuple[int, int], float] = {}
    for index, value in problem.each(listed, asks):
        at, amount = trials[index]
        found[at, amount] = value
        if tick is not None and amount:
            text = f"{names[at]} without {amount} of {sizes[at]}: {value:.4g}"
            tick(len(found), len(trials), text)
    baseline = found[trials[0]]
    curves = tuple(
        Curve(name, sizes[at], tuple(tried[at]), tuple(found[at, n] for n in tried[at]), baseline)
        for at, name in enumerate(names)
    )
    return Sensitivity(baseline, curves, tuple(ratios), *settings)


def as_table(table: Table) -> Sensitivity | None:
    """The table, read where only its path is given."""
    if table is None or isinstance(table, Sensitivity):
        return table
    return Sensitivity.from_json(Path(table).read_text(encoding="utf-8"))


def check_fits(table: Sensitivity, allocation: str, name: str, size: int | None = None) -> None:
    """Refuse a table that does not know a group, or knows it with another size."""
    known = {curve.name: curve.size for curve in table.curves}
    if name not in known:
        raise InputError(
            f"the table of allocation {allocation!r} has no group {name!r}; scan this model at "
            "this granularity, with the same ignore"
        )
    if size is not None and known[name] != size:
        raise InputError(
            f"the table of allocation {allocation!r} has {known[name]} units of {name!r}, and the "
            f"model {size}; scan this model"
        )


def _shares(curves: Sequence[Curve], sparsity: float, interpolate: bool) -> list[float]:
    """Shares at the smallest tolerance that reaches a sparsity, its last step in part."""
    sizes = np.array([curve.size for curve in curves], dtype=np.float64)
    target = sparsity * sizes.sum()

    def at(tolerance: float) -> np.ndarray:
        return np.array([curve.within(tolerance, interpolate) for curve in curves])

    highest = max((float(curve.damage[-1]) for curve in curves if curve.amounts), default=0.0)
    if at(highest).sum() < target:
        below, above = at(highest), sizes
    elif at(0.0).sum() >= target:
        below, above = np.zeros(len(curves)), at(0.0)
    else:
        low, high = 0.0, highest
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if at(middle).sum() >= target else (middle, high)
        below, above = at(low), at(high)
    missing, step = target - below.sum(), (above - below).sum()
    part = missing / step if step > 0 else 0.0
    return ((below + part * (above - below)) / sizes).tolist()
