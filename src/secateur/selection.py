"""From scores and a budget to the classes that go: as many of each group as is allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from secateur.allocation import Allocation, Amounts, GroupScores, Problem, judged_order
from secateur.costs import CostModel
from secateur.criteria import Scores
from secateur.errors import BudgetError, NothingToPruneError
from secateur.graph.coupling import Group
from secateur.graph.graph import Graph
from secateur.graph.kinds import kinds
from secateur.rounding import Rounding

__all__ = ["Selection", "select"]


@dataclasses.dataclass
class Selection:
    """What was chosen.

    Attributes
    ----------
    removed : ndarray of bool, shape [classes]
    counts : list of (int, int)
        Per group, how many of its units go, and how many there are.
    costs : dict of str to (float, float)
        Per measure, what the dense model costs, and what the pruned one will.
    """

    removed: np.ndarray
    counts: list[tuple[int, int]]
    costs: dict[str, tuple[float, float]]


def select(
    graph: Graph,
    costs: CostModel,
    scores: Scores,
    allocation: Allocation,
    budget: dict[str, float] | None,
    *,
    base: Mapping[str, float],
    rounding: Rounding,
    min_keep: int = 1,
    comparable: bool = False,
    evaluate: Callable[[Sequence[np.ndarray]], Iterator[tuple[int, float]]] | None = None,
    seed: int = 0,
) -> Selection:
    """Remove as many units of every group as an allocation says, so that the budget is met.

    Parameters
    ----------
    budget : dict or None
        None removes all that may go.
    base : dict
        Costs that the fractions refer to.
    rounding : Rounding
        What sizes of pruned dimensions are multiples of.
    min_keep : int, default 1
        Units that every group keeps at least.
    comparable : bool
        Whether raw scores of different groups share one unit of measure.
    evaluate : callable, optional
        Classes that go, as a mask for each of several models -> ``(index, value)``, how good each
        of them is, for allocations that try models out.
    seed : int, default 0

    Raises
    ------
    NothingToPruneError
        When no group has a unit to spare.
    BudgetError
        When removing all that may go is not enough; says how close it gets.
    """
    groups = graph.groups
    units = [group.units(scores.values) for group in groups]
    limits = [
        rounding.allowed(group, min_keep, costs, rows)
        for group, rows in zip(groups, units, strict=True)
    ]
    shapes = {value.name: tuple(value.shape) for value in graph.trace.values if value.name}
    alike = kinds(graph) if allocation.by_kind else [""] * len(groups)
    listed = []
    for group, rows, allowed, kind in zip(groups, units, limits, alike, strict=True):
        judged = scores.judged[rows].all(axis=1) & (allowed[-1] > 0)
        judged &= ~_last_of_a_tensor(graph, group, rows, min_keep)
        listed.append(
            GroupScores(
                group.name,
                scores.values[rows].mean(axis=1),
                np.full(len(rows), rows.shape[1], dtype=np.float64),
                judged,
                comparable,
                kind,
                tuple(shapes[member.name] for member in group.members if member.role == "producer"),
            )
        )
    ranked = [judged_order(group) for group in listed]
    if not any(len(order) for order in ranked):
        raise NothingToPruneError(_nothing(graph, scores, min_keep, rounding))
    choices = [counts[counts <= len(order)] for counts, order in zip(limits, ranked, strict=True)]

    def removed_by(amounts: Amounts) -> np.ndarray:
        gone = np.zeros(graph.n_classes, dtype=bool)
        for rows, order, count in zip(units, ranked, amounts, strict=True):
            gone[rows[order[:count]].ravel()] = True
        return gone

    def values(listed: Sequence[Amounts]) -> Iterator[tuple[int, float]]:
        assert evaluate is not None
        return evaluate([removed_by(amounts) for amounts in listed])

    wanted = budget or {}
    problem = Problem(
        listed,
        choices,
        lambda amounts: costs(removed_by(amounts)),
        {measure: fraction * base[measure] for measure, fraction in wanted.items()},
        None if evaluate is None else lambda amounts: next(values([amounts]))[1],
        seed,
        None if evaluate is None else values,
    )
    if not problem.met(problem.most):
        least = costs(removed_by(problem.most))
        raise BudgetError(_too_tight(graph, least, base, wanted, min_keep, rounding))
    amounts = problem.most if budget is None else allocation.amounts(problem)
    if amounts != problem.floor(amounts) or not problem.met(amounts):
        raise AssertionError(f"allocation {allocation.name!r} broke its promise: {amounts}")
    sizes = [(count, group.size) for count, group in zip(amounts, groups, strict=True)]
    removed = removed_by(amounts)
    dense, left = costs.dense, costs(removed)
    return Selection(removed, sizes, {measure: (dense[measure], left[measure]) for measure in left})


def _last_of_a_tensor(graph: Graph, group: Group, rows: np.ndarray, min_keep: int) -> np.ndarray:
    """Units that must stay so that no tensor of the group loses all of a dimension."""
    spared = np.zeros(len(rows), dtype=bool)
    unit_of = np.full(graph.n_classes, -1, dtype=np.int64)
    unit_of[rows.ravel()] = np.repeat(np.arange(len(rows)), rows.shape[1])
    for member in group.members:
        units = np.unique(unit_of[member.classes])
        if units[0] >= 0 and len(units) < len(rows):
            spared[units[-min_keep:]] = True
    return spared


def _nothing(graph: Graph, scores: Scores, min_keep: int, rounding: Rounding) -> str:
    if not graph.groups:
        why = "; ".join(f"{name}: {reason}" for name, reason in graph.protected[:3])
        return f"no dimension of the model can be pruned ({why or 'it has no weights to remove'})"
    if not scores.judged.any():
        return f"the criterion can judge no unit: {scores.reason}"
    return (
        f"every group keeps all of its units under min_keep={min_keep}, {rounding.text}; lower them"
    )


def _too_tight(
    graph: Graph,
    least: Mapping[str, float],
    base: Mapping[str, float],
    budget: dict[str, float],
    min_keep: int,
    rounding: Rounding,
) -> str:
    reached = ", ".join(f"{key}={least[key] / (base[key] or 1):.3f}" for key in budget)
    asked = ", ".join(f"{key}={value:g}" for key, value in budget.items())
    blockers = "; ".join(f"{name} ({reason})" for name, reason in graph.protected[:5])
    return (
        f"the budget {asked} cannot be met: removing all that may go reaches {reached} "
        f"(min_keep={min_keep}, {rounding.text}); protected: {blockers or 'nothing'}"
    )
