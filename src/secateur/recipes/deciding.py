"""The steps ``prune`` and ``sparsify``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from torch import nn

from secateur.allocation import SensitivityScan, as_allocation
from secateur.allocation.searching import Searching
from secateur.costs import CostModel
from secateur.data import Data
from secateur.errors import InputError, NothingToPruneError
from secateur.graph import trace
from secateur.progress import Tick
from secateur.prune import prune
from secateur.recipes.folder import START
from secateur.recipes.outcome import Outcome
from secateur.recipes.steps import Deciding, Prune, Sparsify
from secateur.recipes.tasks import Task, tasks_of
from secateur.recipes.work import EVALUATION_BATCH, Work
from secateur.recover import evaluate, recalibrate_batchnorm
from secateur.report.collect import coupled_groups
from secateur.report.numbers import percent
from secateur.request import as_granularity
from secateur.result import Result
from secateur.sparsity.table import SparseGranularity

__all__ = ["decide_and_cut", "described"]


@dataclasses.dataclass
class Validation:
    """How good a model is on the validation part: its accuracy, or less loss."""

    data: Data

    def __call__(self, model: nn.Module) -> float:
        score = evaluate(model, self.data.val.batches(EVALUATION_BATCH))
        return -score.loss if score.accuracy is None else score.accuracy


def decide_and_cut(work: Work, task: Task, model: nn.Module, tick: Tick) -> Outcome:
    """Prune the model in place, and let its batch norms settle."""
    options = task.options
    assert isinstance(options, Deciding)
    seed = work.recipe.seed if options.seed is None else options.seed
    given = arguments(options)
    if work.data is not None:
        given["data"] = work.training(seed=seed, most=options.batches)
        given["evaluate"] = Validation(work.data)
        if isinstance(as_allocation(options.allocation), Searching):
            given["engine"] = work.recipe.engine
            given["journal"] = work.folder.journal(task.name)
    if isinstance(options, Prune):
        given["base"] = _base(work, task, given["budget"])
    given["allocation"] = allocation = as_allocation(options.allocation)
    result = prune(model, work.inputs, seed=seed, verify=options.verify, progress=tick, **given)
    plans, notes = [result.plan], _notes(result, model)
    notes["costs"] = _dense_costs(result, given)
    if isinstance(allocation, SensitivityScan) and allocation.found is not None:
        notes["scan"] = json.loads(allocation.found.to_json())
    if isinstance(options, Sparsify) and options.compact:
        try:
            plans.append(result.compact(ignore=options.ignore, verify=options.verify).plan)
        except NothingToPruneError as error:
            notes["compact"] = str(error)
    if options.recalibrate and work.data is not None:
        settled = work.training(seed=seed, most=options.recalibrate)
        notes["recalibrated"] = recalibrate_batchnorm(model, settled)
    return Outcome(described(options), plans=plans, notes=notes)


def arguments(options: Deciding) -> dict[str, Any]:
    """The options that :func:`secateur.prune` takes as they are."""
    same = ["criterion", "allocation", "ignore", "min_keep"]
    if isinstance(options, Prune):
        same += ["round_to", "latency"]
    row, budget = as_granularity(options.granularity), options.budget
    if isinstance(row, SparseGranularity) and budget is not None and "sparsity" in budget:
        row, share = row.towards(budget["sparsity"])
        budget = {"sparsity": share}
    return {"granularity": row, "budget": budget, **{key: getattr(options, key) for key in same}}


def described(options: Deciding) -> str:
    """What is decided, in few words."""
    budget = options.budget or options.targets()[-1]
    if isinstance(options, Sparsify):
        share = f" {percent(budget['sparsity'])} zeros" if "sparsity" in budget else ""
        return f"sparsified ({options.granularity}){share}"
    limits = ", ".join(
        f"accuracy within {value:g}" if key == "accuracy_drop" else f"{percent(value)} of {key}"
        for key, value in budget.items()
    )
    return f"pruned to {limits}"


def _base(work: Work, task: Task, budget: dict[str, float] | None) -> dict[str, float] | None:
    """What fractions are of: the model that the run began with, however often it was cut since."""
    earlier = tasks_of(work.recipe)[: task.number - 1]
    if not any(each.kind in ("prune", "sparsify") for each in earlier):
        return None
    known: dict[str, float] = {}
    for each in reversed(earlier):
        known |= (work.folder.read_stage(each.name) or {"notes": {}})["notes"].get("costs", {})
    measures = [key for key in budget or {"macs": 0.5} if key != "accuracy_drop"]
    if not set(measures) - set(known):
        return known
    if "latency" in measures:
        raise InputError(
            "what a budget of latency is a fraction of is measured at the first step that prunes: "
            "give that step one as well"
        )
    dense = work.model_at(START)
    return CostModel(trace(dense, work.inputs), dense, measures=measures).dense | known


def _notes(result: Result, model: nn.Module) -> dict[str, Any]:
    return {
        "settings": result.plan.settings,
        "skipped": [list(pair) for pair in result.skipped],
        "groups": [dataclasses.asdict(group) for group in coupled_groups(result.groups, model)]
        if not result.plan.masks
        else [],
        "error": result.error,
    }


def _dense_costs(result: Result, given: dict[str, Any]) -> dict[str, float]:
    """What the fractions of later steps are of."""
    own = {measure: dense for measure, (dense, _) in result.costs.items()}
    return given.get("base") or own
