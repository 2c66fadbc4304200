"""Pruning in steps, with training in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from secateur.errors import InputError
from secateur.granularity import Granularity
from secateur.inputs import ExampleInputs, as_inputs
from secateur.observing import repeatable
from secateur.prune import prune
from secateur.request import as_budget, as_granularity
from secateur.result import Result
from secateur.schedules.amounts import SCHEDULES, OneShot, Schedule, as_schedule
from secateur.sparsity.table import SparseGranularity
from secateur.surgery.graph_form import to_graph

__all__ = ["SCHEDULES", "Pruner"]


class Pruner:
    """Prune to a budget in several steps, training between them.

    Iterating yields a :class:`~secateur.prune.Result` after each step, with the model already
    smaller. Budgets refer to the model as it was given, at every step.

    N:M comes by way of more than N: at a sparsity of s on the way, ``ceil(M (1 - s))`` of every M
    stay, but M − 1 at most, so that 1:4 is 3:4 and 2:4 first. A granularity that makes zeros
    whatever the budget (``pattern``, ``vector:16/2:4``) takes steps once its budget allows them;
    without a budget it is chosen at once.

    Parameters
    ----------
    model, example_inputs
        As for :func:`secateur.prune`.
    schedule : str or Schedule, default "iterative"
        ``"iterative"`` keeps the same fraction of what is left in every step: after step t of n
        the budget b stands at ``b ** (t / n)``. ``"agp"`` approaches it along
        ``1 - (1 - b) * (1 - (1 - t / n) ** 3)``. ``"one_shot"`` is there after the first step.
        Others go by their own curve: ``"linear"``, ``"movement:warmup=0.2"``. Of an object, only
        the curve counts; where it ends is the budget's and `steps`' affair.
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
        schedule: str | Schedule = "iterative",
        steps: int = 10,
        budget: dict[str, float] | None = None,
        **options: Any,
    ) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InputError(f"steps must be an integer of at least 1, not {steps!r}")
        if steps > 1 and options.get("journal") is not None:
            raise InputError(
                "a journal is of one model, and every step makes another; call secateur.prune step "
                "by step, with a journal each time"
            )
        self._curve = as_schedule(schedule)
        if options.get("form") == "graph":
            # Captured once: every step goes on with the graph that was trained since.
            options["form"], model = "python", to_graph(model, example_inputs)
        self.model = model
        self.example_inputs = example_inputs
        self.schedule = schedule
        self.steps = steps
        self._granularity = as_granularity(options.pop("granularity", "channel"))
        self.budget = as_budget(self._granularity, budget)
        if "accuracy_drop" in self.budget:
            raise InputError(
                "accuracy_drop is searched for in one call of secateur.prune; steps need a budget "
                "known before, such as the macs in that result's plan.settings['measured']"
            )
        if not self.budget and steps > 1 and not isinstance(self._curve, OneShot):
            raise InputError(
                f"granularity {self._granularity.name!r} without a budget is chosen at once; take "
                "schedule='one_shot', or give a budget of sparsity"
            )
        # Every step reads it.
        options["data"] = repeatable(options.get("data"))
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
        progress = step / self.steps
        return {
            key: self._gone(value, progress)
            if key == "sparsity"
            else 1.0 - self._gone(1.0 - value, progress)
            for key, value in self.budget.items()
        }

    def _aims(self, step: int) -> tuple[Granularity | SparseGranularity, dict[str, float]]:
        """Granularity and budget of a step."""
        granularity, budget = self._granularity, self.target(step)
        if isinstance(granularity, SparseGranularity) and budget:
            granularity, budget["sparsity"] = granularity.towards(budget["sparsity"])
        return granularity, budget

    def _gone(self, share: float, progress: float) -> float:
        return self._curve.between(0.0, share, progress)

    def __iter__(self) -> Iterator[Result]:
        base: dict[str, float] | None = None
        inputs = as_inputs(self.example_inputs)
        for step in range(1, self.steps + 1):
            if isinstance(self._curve, OneShot) and step > 1:
                yield self.results[-1]
                continue
            granularity, budget = self._aims(step)
            result = prune(
                self.model,
                inputs,
                granularity=granularity,
                budget=budget,
                base=base,
                **self.options,
            )
            if base is None:
                base = {measure: dense for measure, (dense, _) in result.costs.items()}
            inputs = result.plan.narrow_inputs(inputs)
            self.results.append(result)
            yield result
