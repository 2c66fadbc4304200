"""How good a model is that has lost some classes: the caller's own measure, on a pruned copy."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

import torch
from torch import nn

from secateur.engines import Engine, InProcess, Journal, Workers, fingerprint
from secateur.errors import InputError
from secateur.observing import all_seeded
from secateur.plan import Plan

__all__ = ["Candidates", "Trial", "measured", "once", "steady"]

Key = TypeVar("Key", bound=Hashable)

# What sums in another order may differ by, relatively; below any difference worth a decision.
NOISE = 1e-6


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is done to every candidate: a copy of the model is really cut, and measured.

    The copy is in eval mode, and the random state is the same at the start of every trial,
    whichever comes first and wherever it runs.

    Attributes
    ----------
    model : nn.Module
        Neither run nor changed.
    evaluate : callable
        ``evaluate(model) -> float``, higher is better.
    seed : int
    tune : callable, optional
        ``tune(model)`` trains a copy before it is evaluated, in place.
    """

    model: nn.Module
    evaluate: Callable[[nn.Module], float]
    seed: int = 0
    tune: Callable[[nn.Module], object] | None = None

    def __call__(self, plan: Plan) -> float:
        """How good the model is once a plan is carried out.

        Raises
        ------
        InputError
            When `tune` or `evaluate` fails, or `evaluate` returns no finite number, or not the same
            one twice for the dense model.
        """
        candidate = copy.deepcopy(self.model).eval()
        if not (plan.removed or plan.masks):
            return steady(self.evaluate, candidate, self.seed)
        plan.apply(candidate)
        if self.tune is not None:
            tuned(self.tune, candidate, self.seed)
        return measured(self.evaluate, candidate, self.seed)


class Candidates:
    """Tries pruned copies of a model out, each choice once; a context that ends its workers.

    Parameters
    ----------
    trial : Trial
    engine : Engine, optional
        Where trials run; in this process if not given.
    journal : path-like, optional
        A file of what was tried out before; it grows with what is tried out now.
    told : callable, optional
        ``told(done, total)`` after every model that was tried out: of those that were handed over
        together, or of all so far, without a total, where they come one by one.

    Raises
    ------
    InputError, FileFormatError
        When the journal is of another model, seed or `evaluate`, or is none.
    """

    def __init__(
        self,
        trial: Trial,
        engine: Engine | None = None,
        journal: str | os.PathLike[str] | None = None,
        told: Callable[[int, int | None], None] | None = None,
    ) -> None:
        self.trial, self.engine = trial, engine or InProcess()
        self._told, self._tried = told, 0
        self._known: dict[str, float] = {}
        self._journal = None if journal is None else Journal(journal, about(trial))
        self._workers: Workers | None = None

    def __enter__(self) -> Candidates:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def values(self, plans: Sequence[Plan]) -> list[float]:
        """How good the model is after each plan, carried out alone.

        Raises
        ------
        InputError
            When `evaluate` fails, returns no finite number, or cannot be sent to the workers.
        EngineError
            When workers die again and again, or none answers.
        """
        found = dict(self.each(plans))
        return [found[index] for index in range(len(plans))]

    def each(self, plans: Sequence[Plan]) -> Iterator[tuple[int, float]]:
        """As `values`, but ``(index, value)`` of each plan as it becomes known."""
        keys = [digest(plan) for plan in plans]
        journal = self._journal
        if journal is not None:
            self._known |= {key: journal[key] for key in keys if key in journal}

        def tried(fresh: list[int]) -> Iterator[tuple[int, float]]:
            if self._workers is None:
                self._workers = self.engine.start(self.trial)
            found = self._workers.run([plans[index] for index in fresh])
            for done, (at, value) in enumerate(found, 1):
                if journal is not None:
                    journal.add(keys[fresh[at]], value)
                self._tell(done, len(fresh))
                yield at, value

        return once(keys, self._known, tried)

    def _tell(self, done: int, together: int) -> None:
        self._tried += 1
        if self._told is not None:
            several = together > 1
            self._told(done if several else self._tried, together if several else None)


def once(
    keys: Sequence[Key],
    known: dict[Key, float],
    find: Callable[[list[int]], Iterator[tuple[int, float]]],
) -> Iterator[tuple[int, float]]:
    """Yield ``(index of the key, value)`` of every key; what is not known is found once.

    Parameters
    ----------
    known : dict
        Grows with what is found.
    find : callable
        Indices of different keys -> ``(place among these indices, value)``, in any order.

    Examples
    --------
    >>> known = {"a": 1.0}
    >>> list(once(["b", "a", "b"], known, lambda fresh: iter([(0, 2.0)])))
    [(1, 1.0), (0, 2.0), (2, 2.0)]
    >>> known
    {'a': 1.0, 'b': 2.0}
    """
    places: dict[Key, list[int]] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, []).append(index)
    fresh = [key for key in places if key not in known]
    for index, key in enumerate(keys):
        if key in known:
            yield index, known[key]
    if fresh:
        for at, value in find([places[key][0] for key in fresh]):
            known[fresh[at]] = value
            for index in places[fresh[at]]:
                yield index, value


def digest(plan: Plan) -> str:
    """What tells plans apart that differ in what they do, not in how they were decided."""
    text = dataclasses.replace(plan, settings={}).to_json()
    return hashlib.sha256(text.encode()).hexdigest()


def about(trial: Trial) -> dict[str, str]:
    """What a value depends on beside the plan."""
    measure = getattr(trial.evaluate, "func", trial.evaluate)
    name = getattr(measure, "__qualname__", type(measure).__qualname__)
    tune = trial.tune
    return {
        "model": fingerprint(trial.model),
        "evaluate": name,
        "seed": str(trial.seed),
        "tune": "" if tune is None else getattr(tune, "__qualname__", type(tune).__qualname__),
    }


def tuned(tune: Callable[[nn.Module], object], model: nn.Module, seed: int = 0) -> None:
    """Train a copy for a while; it is in eval mode afterwards.

    Raises
    ------
    InputError
        When `tune` raises.
    """
    with all_seeded(seed):
        try:
            tune(model)
        except Exception as error:  # the user's code may raise anything
            raise InputError(
                f"tune raised {type(error).__name__} on a copy of the model: {error}"
            ) from error
    model.eval()


def steady(evaluate: Callable[[nn.Module], float], model: nn.Module, seed: int = 0) -> float:
    """What `evaluate` says of a model, both times that it is asked.

    Raises
    ------
    InputError
        When it does not say the same twice, and where `measured` does.
    """
    first, second = measured(evaluate, model, seed), measured(evaluate, model, seed)
    if abs(first - second) > NOISE * max(abs(first), abs(second)):
        raise InputError(
            f"evaluate is not deterministic: {first!r}, then {second!r} for the same model; let it "
            "use the same data in the same order every time, without random changes"
        )
    return first


def measured(evaluate: Callable[[nn.Module], float], model: nn.Module, seed: int = 0) -> float:
    """What `evaluate` says of a model.

    Raises
    ------
    InputError
        When it raises, or returns no finite number.
    """
    with all_seeded(seed):
        try:
            value = evaluate(model)
        except Exception as error:  # the user's code may raise anything
            raise InputError(
                f"evaluate raised {type(error).__name__} on a copy of the model: {error}"
            ) from error
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(
            f"evaluate must return a finite number, higher is better; it returned {value!r}"
        )
    return float(value)
