"""How good a model is that has lost some classes: the caller's own measure, on a pruned copy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from secateur.errors import InputError
from secateur.observing import seeded
from secateur.plan import Plan

__all__ = ["Candidates", "measured", "steady"]


# What sums in another order may differ by, relatively; below any difference worth a decision.
NOISE = 1e-6


class Candidates:
    """Tries pruned copies of a model out, each choice once, and the dense one twice.

    The model itself is neither run nor changed. Every copy is really smaller, so that what is
    measured is what pruning would give, and in eval mode. The random state is the same at the
    start of every trial, and afterwards as it was.

    Parameters
    ----------
    model : nn.Module
    plan : callable
        Classes that go, as a mask -> the plan that takes them out.
    evaluate : callable
        ``evaluate(model) -> float``, higher is better.
    seed : int
    tune : callable, optional
        ``tune(model)`` trains a copy before it is evaluated, in place.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Callable[[np.ndarray], Plan],
        evaluate: Callable[[nn.Module], float],
        seed: int = 0,
        tune: Callable[[nn.Module], object] | None = None,
    ) -> None:
        self.model, self.seed, self._tune = model, seed, tune
        self._plan, self._evaluate = plan, evaluate
        self._known: dict[bytes, float] = {}

    def __call__(self, removed: np.ndarray) -> float:
        """How good the model is without these classes.

        Raises
        ------
        InputError
            When `tune` or `evaluate` fails, or `evaluate` returns no finite number.
        """
        key = np.packbits(removed).tobytes()
        if key not in self._known:
            plan = self._plan(removed)
            candidate = copy.deepcopy(self.model).eval()
            if removed.any():
                plan.apply(candidate)
                if self._tune is not None:
                    tuned(self._tune, candidate, self.seed)
            judged = measured if removed.any() else steady
            self._known[key] = judged(self._evaluate, candidate, self.seed)
        return self._known[key]


def tuned(tune: Callable[[nn.Module], object], model: nn.Module, seed: int = 0) -> None:
    """Train a copy for a while; it is in eval mode afterwards.

    Raises
    ------
    InputError
        When `tune` raises.
    """
    with seeded(seed):
        try:
            tune(model)
        except Exception as error:
            raise InputError(
                f"tune raised {type(error).__name__} on a pruned copy of the model: {error}"
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
    with seeded(seed):
        try:
            value = evaluate(model)
        except Exception as error:
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
