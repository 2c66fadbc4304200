"""Choosing what goes from a coupling graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from secateur.candidates import Candidates
from secateur.costs import CostModel
from secateur.criteria import Scorer
from secateur.graph.graph import Graph
from secateur.inputs import Inputs
from secateur.plan import Plan
from secateur.request import Request
from secateur.selection import Selection, select

__all__ = ["ByBudget", "Choice", "Chooser", "Planner", "Task"]


@dataclasses.dataclass
class Choice:
    """What goes.

    Attributes
    ----------
    skipped : list of (str, str)
        Groups of which nothing could be chosen, and why.
    settings : dict
        What was found out on the way and belongs in the plan's settings.
    """

    selection: Selection
    skipped: list[tuple[str, str]]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


Planner: TypeAlias = Callable[[np.ndarray], Plan]
"""Classes that go, as a mask -> the plan that takes them out."""

Chooser: TypeAlias = Callable[[Graph, Planner], Choice]


class Task:
    """A graph to choose from, scored: what goes under any budget, and how good the rest is."""

    def __init__(
        self, model: nn.Module, request: Request, scorer: Scorer, graph: Graph, planner: Planner
    ) -> None:
        self.request, self.graph = request, graph
        self.candidates = None
        if request.evaluate is not None:
            self.candidates = Candidates(
                model, planner, request.evaluate, request.seed, request.allocation.tune
            )
        self.costs = CostModel(graph, model)
        self.base = request.base or self.costs(np.zeros(graph.n_classes, dtype=bool))
        self.scores = scorer.classes(graph)

    def choice(self, budget: dict[str, float] | None) -> Choice:
        """What goes under a budget, in fractions; None for all that may."""
        request, scores = self.request, self.scores
        selection = select(
            self.graph,
            self.costs,
            scores,
            request.allocation,
            budget,
            base=self.base,
            min_keep=request.min_keep,
            round_to=request.round_to,
            comparable=request.criterion.comparable,
            evaluate=self.candidates,
            seed=request.seed,
        )
        skipped = [
            (group.name, scores.reason)
            for group in self.graph.groups
            if not scores.judged[group.classes].any()
        ]
        return Choice(selection, skipped)


class ByBudget:
    """Chooses the units of lowest score, until the budget is met."""

    def __init__(self, model: nn.Module, inputs: Inputs, request: Request) -> None:
        self.model = model
        self.request = request
        self.scorer = Scorer(
            model, request.criterion, request.data, request.loss, request.seed, inputs=inputs
        )

    def __call__(self, graph: Graph, planner: Planner) -> Choice:
        task = Task(self.model, self.request, self.scorer, graph, planner)
        return task.choice(self.request.budget)
