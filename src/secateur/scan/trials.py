"""Pruned copies of a model, each judged once."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from secateur.candidates import measured
from secateur.graph.graph import Graph
from secateur.plan import Plan
from secateur.scan.ledger import Ledger

__all__ = ["Judge", "Opaque", "Trials", "masked_copy"]


class Judge(Protocol):
    """Says how good a copy of the model is that a plan was carried out on."""

    def __call__(self, candidate: nn.Module, plan: Plan) -> float: ...


class Opaque:
    """Judges by a function of the caller's that is given the copy and nothing else."""

    def __init__(self, evaluate: Callable[[nn.Module], float], seed: int) -> None:
        self.evaluate, self.seed = evaluate, seed

    def __call__(self, candidate: nn.Module, plan: Plan) -> float:
        return measured(self.evaluate, candidate, self.seed)


class Trials:
    """How good a model is without some of its classes, from the ledger or on a pruned copy.

    What is kept is the value of an exact removal, so a ledger serves scans at other shares and
    by other criteria too.

    Parameters
    ----------
    model : nn.Module
        Neither run nor changed.
    graph : Graph
    planner : callable
        Classes that go, as a mask -> the plan that takes them out.
    judge : Judge
    ledger : Ledger
    baseline : float
        The value without removal.
    known : callable
        Called when a value was in the ledger.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        planner: Callable[[np.ndarray], Plan],
        judge: Judge,
        ledger: Ledger,
        baseline: float,
        known: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.graph, self._planner, self._judge = model, graph, planner, judge
        self._ledger, self._baseline, self._known = ledger, baseline, known

    def __call__(self, removed: np.ndarray) -> float:
        """How good the model is without these classes.

        Raises
        ------
        InputError
            When `evaluate` fails, or returns no finite number.
        """
        if not removed.any():
            return self._baseline
        key = _removal(self.graph, removed)
        if key in self._ledger:
            self._known()
        else:
            plan = self._planner(removed)
            candidate = copy.deepcopy(self.model).eval()
            plan.apply(candidate)
            self._ledger.add(key, self._judge(candidate, plan))
        return self._ledger[key]


def masked_copy(model: nn.Module, name: str, mask: Tensor) -> tuple[nn.Module, Plan]:
    """A copy of the model in eval mode with one weight masked, and the plan that did it."""
    plan = Plan(masks={name: mask}, shapes={name: list(mask.shape)})
    candidate = copy.deepcopy(model).eval()
    plan.apply(candidate)
    return candidate, plan


def _removal(graph: Graph, removed: np.ndarray) -> str:
    """What goes of which tensor, in short."""
    gone = sorted(
        (member.name, member.dim, np.flatnonzero(removed[member.classes]).tolist())
        for member in graph.members
        if removed[member.classes].any()
    )
    return hashlib.sha256(json.dumps(gone).encode()).hexdigest()[:32]
