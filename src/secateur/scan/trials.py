"""Pruned copies of a model, each judged once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

from torch import nn

from secateur.candidates import measured
from secateur.plan import Plan
from secateur.scan.ledger import Ledger

__all__ = ["Judge", "Opaque", "Trials"]


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
    """How good a model is once a plan is carried out, from the ledger or on a copy.

    Parameters
    ----------
    model : nn.Module
        Neither run nor changed.
    judge : Judge
    ledger : Ledger
    """

    def __init__(self, model: nn.Module, judge: Judge, ledger: Ledger) -> None:
        self.model, self._judge, self._ledger = model, judge, ledger

    def __call__(
        self, key: str, plan: Callable[[], Plan], known: Callable[[], None] = lambda: None
    ) -> float:
        """The value of what is kept under a key.

        Parameters
        ----------
        key : str
            Names exactly what the plan does, so that a ledger serves scans at other shares and by
            other criteria too.
        plan : callable
            Makes the plan, where the ledger does not have its value.
        known : callable
            Called where it has.

        Raises
        ------
        InputError
            When `evaluate` fails, or returns no finite number.
        """
        if key in self._ledger:
            known()
        else:
            made = plan()
            candidate = copy.deepcopy(self.model).eval()
            made.apply(candidate)
            self._ledger.add(key, self._judge(candidate, made))
        return self._ledger[key]
