"""Pruned copies of a model, each judged once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import nn

from secateur.candidates import measured
from secateur.engines import Engine
from secateur.plan import Plan
from secateur.scan.ledger import Ledger

__all__ = ["Judge", "JudgedCopy", "Opaque", "Trials"]


class Judge(Protocol):
    """Says how good a copy of the model is that a plan was carried out on."""

    def __call__(self, candidate: nn.Module, plan: Plan) -> float: ...


class Opaque:
    """Judges by a function of the caller's that is given the copy and nothing else."""

    def __init__(self, evaluate: Callable[[nn.Module], float], seed: int) -> None:
        self.evaluate, self.seed = evaluate, seed

    def __call__(self, candidate: nn.Module, plan: Plan) -> float:
        return measured(self.evaluate, candidate, self.seed)


@dataclasses.dataclass(frozen=True)
class JudgedCopy:
    """The work that goes to an engine: a plan, carried out on a copy that is then judged.

    Attributes
    ----------
    model : nn.Module
        Neither run nor changed.
    judge : Judge
    """

    model: nn.Module
    judge: Judge

    def __call__(self, plan: Plan) -> float:
        candidate = copy.deepcopy(self.model).eval()
        plan.apply(candidate)
        return self.judge(candidate, plan)


class Trials:
    """How good a model is once each of several plans is carried out, from the ledger or on copies.

    Parameters
    ----------
    work : JudgedCopy
    ledger : Ledger
    engine : Engine
        Where copies are judged.
    """

    def __init__(self, work: JudgedCopy, ledger: Ledger, engine: Engine) -> None:
        self._work, self._ledger, self._engine = work, ledger, engine

    def each(
        self, keyed: Sequence[tuple[str, Callable[[], Plan]]], known: Callable[[], None]
    ) -> Iterator[tuple[int, float]]:
        """``(index, value)`` of every plan, first of those that the ledger knows.

        Parameters
        ----------
        keyed : sequence of (str, callable)
            A key that says exactly what a plan does, so that a ledger serves scans at other shares
            and by other criteria too; and what makes the plan, where its value is not known.
        known : callable
            Called for every value that is.

        Raises
        ------
        InputError
            When `evaluate` fails, returns no finite number, or cannot be sent to the workers.
        EngineError
            When workers die again and again, or none answers.
        """
        fresh: dict[str, list[int]] = {}
        for at, (key, _) in enumerate(keyed):
            if key in self._ledger:
                known()
                yield at, self._ledger[key]
            else:
                fresh.setdefault(key, []).append(at)
        plans = [keyed[places[0]][1]() for places in fresh.values()]
        if not plans:
            return
        keys = list(fresh)
        with self._engine.start(self._work) as workers:
            for index, value in workers.run(plans):
                self._ledger.add(keys[index], value)
                for at in fresh[keys[index]]:
                    yield at, value
