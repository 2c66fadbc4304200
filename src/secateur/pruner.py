"""Pruning in steps, with training in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.inputs import ExampleInputs, as_inputs
from secateur.prune import prune
from secateur.registry import Registry
from secateur.request import as_budget, as_granularity
from secateur.result import Result
from secateur.surgery.graph_form import to_graph

__all__ = ["SCHEDULES", "Pruner"]

Schedule = Callable[[float], float]

SCHEDULES: Registry[Schedule] = Registry("schedule")


@SCHEDULES.register("one_shot")
def one_shot(progress: float) -> float:
    """All at once, in the first step."""
    return 1.0


@SCHEDULES.register("iterative")
def iterative(progress: float) -> float:
    """The same fraction of what is left in every step."""
    return progress


@SCHEDULES.register("agp")
def agp(progress: float) -> float:
    """Much early, little late: ``1 - (1 - t)^3`` (Zhu and Gupta 2017, arXiv:1710.01878)."""
    return 1.0 - (1.0 - progress) ** 3


class Pruner:
    """Prune to a budget in several steps, training between them.

    Iterating yields a :class:`~secateur.prune.Result` after each step, with the model already
    smaller. Budgets refer to the model as it was given, at every step.

    Parameters
    ----------
    model, example_inputs
        As for :func:`secateur.prune`.
    schedule : str, default "iterative"
        ``"iterative"`` keeps the same fraction of what is left in every step: after step t of n
        the budget b stands at ``b ** (t / n)``. ``"agp"`` approaches it along
        ``1 - (1 - b) * (1 - (1 - t / n) ** 3)``. ``"one_shot"`` is there after the first step.
    steps : int, default 10
    **options
        As for :func:`secateur.prune`, among them ``budget`` and ``optimizer``, whose state
        follows every step.

    Raises
    ------
    InputError, BudgetError, UnknownNameError

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> [net[0].out_features for _ in Pruner(net, torch.randn(2, 8), steps=2,
    ...                                      budget={"macs": 0.25})]
    [16, 8]
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        *,
        schedule: str = "iterative",
        steps: int = 10,
        budget: dict[str, float] | None = None,
        **options: Any,
    ) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InputError(f"steps must be an integer of at least 1, not {steps!r}")
        if schedule not in SCHEDULES:
            raise UnknownNameError(
                f"unknown schedule {schedule!r}{suggestion(str(schedule), SCHEDULES)}"
            )
        if options.get("form") == "graph":
            # Captured once: every step goes on with the graph that was trained since.
            options["form"], model = "python", to_graph(model, example_inputs)
        self.model = model
        self.example_inputs = example_inputs
        self.schedule = schedule
        self.steps = steps
        granularity = as_granularity(options.get("granularity", "channel"))
        self.budget = as_budget(granularity, budget)
        self.options = options
        asked = [key for key in ("prune_inputs", "prune_outputs") if options.get(key)]
        if asked and options.get("data") is not None:
            raise InputError(
                f"{asked[0]}=True changes what the model takes or returns, so data= fits the "
                "first step only; call secateur.prune step by step, with narrower data each time"
            )
        self.results: list[Result] = []

    def __len__(self) -> int:
        return self.steps

    def target(self, step: int) -> dict[str, float]:
        """The budget after a step, counted from 1, as fractions of the model as given."""
        progress = SCHEDULES[self.schedule](step / self.steps)

        def left(value: float) -> float:
            return value**progress if self.schedule == "iterative" else 1 - (1 - value) * progress

        return {
            key: 1 - left(1 - value) if key == "sparsity" else left(value)
            for key, value in self.budget.items()
        }

    def __iter__(self) -> Iterator[Result]:
        base: dict[str, int] | None = None
        inputs = as_inputs(self.example_inputs)
        for step in range(1, self.steps + 1):
            if self.schedule == "one_shot" and step > 1:
                yield self.results[-1]
                continue
            result = prune(
                self.model,
                inputs,
                budget=self.target(step),
                base=base,
                **self.options,
            )
            if base is None:
                base = {key: getattr(result.before, key) for key in ("macs", "params", "bytes")}
            inputs = result.plan.narrow_inputs(inputs)
            self.results.append(result)
            yield result
