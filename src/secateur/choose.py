"""Choosing what goes from a coupling graph."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from secateur.candidates import Candidates, Trial, once
from secateur.costs import CostModel
from secateur.criteria import Scorer
from secateur.graph.graph import Graph
from secateur.inputs import Inputs
from secateur.plan import Plan
from secateur.request import SAME_CALL, TRYING, Request
from secateur.selection import Selection, select

__all__ = ["ByBudget", "Choice", "Chooser", "Planner", "Task", "Values"]


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


Values: TypeAlias = Callable[[Sequence[np.ndarray]], Iterator[tuple[int, float]]]
"""Sets of classes, as masks -> how good the model is without each, ``(index, value)``."""


class Task:
    """A graph to choose from, scored: what goes under any budget, and how good the rest is."""

    def __init__(
        self,
        model: nn.Module,
        request: Request,
        scorer: Scorer,
        graph: Graph,
        planner: Planner,
        values: Values | None,
    ) -> None:
        self.request, self.graph = request, graph
        self.planner, self.values = planner, values
        self.costs = CostModel(graph, model, measures=request.limited, table=request.latency)
        self.base = request.base or self.costs.dense
        self.scores = scorer.classes(graph)
        if request.ranks.size > 1:
            digest = hashlib.sha256(self.scores.values.tobytes() + self.scores.judged.tobytes())
            request.ranks.same("the scores", digest.hexdigest()[:16], SAME_CALL)

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
            rounding=request.rounding,
            comparable=request.criterion.comparable,
            evaluate=self.values,
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
            model,
            request.criterion,
            request.data,
            request.loss,
            request.seed,
            request.told("scoring"),
            inputs,
        )
        # Made once: what was tried out stays known when the graph turns out to be another.
        self.candidates = None
        if request.evaluate is not None:
            trial = Trial(model, request.evaluate, request.seed, request.allocation.tune)
            self.candidates = Candidates(
                trial, request.engine, request.journal, request.told(TRYING)
            )

    def __call__(self, graph: Graph, planner: Planner) -> Choice:
        with self.candidates or contextlib.nullcontext():
            return self.chosen(self.task(graph, planner))

    def task(self, graph: Graph, planner: Planner) -> Task:
        """What there is to choose from."""
        values = self.trials(graph, planner)
        return Task(self.model, self.request, self.scorer, graph, planner, values)

    def trials(self, graph: Graph, planner: Planner) -> Values | None:
        """How good the model is without each of some sets of classes; None where nobody can say."""
        candidates = self.candidates
        if candidates is None:
            return None
        known: dict[bytes, float] = {}

        def values(listed: Sequence[np.ndarray]) -> Iterator[tuple[int, float]]:
            keys = [np.packbits(removed).tobytes() for removed in listed]
            return once(
                keys, known, lambda fresh: candidates.each([planner(listed[at]) for at in fresh])
            )

        return values

    def chosen(self, task: Task) -> Choice:
        """What goes."""
        return task.choice(self.request.budget)
