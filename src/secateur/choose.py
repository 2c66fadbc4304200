"""Choosing what goes from a coupling graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

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

__all__ = ["ByBudget", "Choice", "Chooser", "Planner"]


@dataclasses.dataclass
class Choice:
    """What goes.

    Attributes
    ----------
    skipped : list of (str, str)
        Groups of which nothing could be chosen, and why.
    """

    selection: Selection
    skipped: list[tuple[str, str]]


Planner: TypeAlias = Callable[[np.ndarray], Plan]
"""Classes that go, as a mask -> the plan that takes them out."""

Chooser: TypeAlias = Callable[[Graph, Planner], Choice]


class ByBudget:
    """Chooses the units of lowest score, until the budget is met."""

    def __init__(self, model: nn.Module, inputs: Inputs, request: Request) -> None:
        self.model = model
        self.request = request
        self.scorer = Scorer(
            model, request.criterion, request.data, request.loss, request.seed, inputs=inputs
        )

    def __call__(self, graph: Graph, planner: Planner) -> Choice:
        request = self.request
        candidates = None
        if request.evaluate is not None:
            candidates = Candidates(self.model, planner, request.evaluate, request.seed)
        costs = CostModel(graph, self.model, measures=request.budget, table=request.latency)
        scores = self.scorer.classes(graph)
        selection = select(
            graph,
            costs,
            scores,
            request.allocation,
            request.budget,
            base=request.base or costs.dense,
            min_keep=request.min_keep,
            rounding=request.rounding,
            comparable=request.criterion.comparable,
            evaluate=candidates,
            seed=request.seed,
        )
        skipped = [
            (group.name, scores.reason)
            for group in graph.groups
            if not scores.judged[group.classes].any()
        ]
        return Choice(selection, skipped)
