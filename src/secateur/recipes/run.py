"""Carry a recipe out, stage by stage, each of them whole on disk before the next begins."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from secateur.data import Data
from secateur.errors import FileFormatError
from secateur.files import replacing
from secateur.persist import save
from secateur.profiling import profile
from secateur.progress import Steps, Tick
from secateur.ranks import Ranks, found_ranks
from secateur.recipes.deciding import decide_and_cut
from secateur.recipes.exporting import export_model, quantize_model
from secateur.recipes.folder import START, RunFolder, writing
from secateur.recipes.metrics import MEASURED, lines, write_metrics
from secateur.recipes.outcome import Outcome
from secateur.recipes.reading import Read, read_recipe
from secateur.recipes.summary import write_summary
from secateur.recipes.tasks import Task, tasks_of
from secateur.recipes.tensorboard import write_events
from secateur.recipes.timing import timings
from secateur.recipes.training import finetune
from secateur.recipes.work import Work, open_work, start
from secateur.report.collect import environment

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["RunResult", "run_recipe"]

Doing: TypeAlias = Callable[[Work, Task, nn.Module, Tick], Outcome]

_DOING: dict[str, Doing] = {
    "prune": decide_and_cut,
    "sparsify": decide_and_cut,
    "finetune": finetune,
    "export": export_model,
    "quantize": quantize_model,
}


_TOGETHER = ("finetune",)
"""What every process takes part in; the first one does the others alone."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes
    ----------
    folder : pathlib.Path
    weights : pathlib.Path
        The final weights, for `secateur.load`.
    stages : list of dict
        What each stage noted, the model at the start first.
    report : pathlib.Path or None
        None where the recipe wants none, or matplotlib or Jinja2 is not installed.
    """

    folder: Path
    weights: Path
    stages: list[dict[str, Any]]
    report: Path | None


def run_recipe(
    recipe: str | os.PathLike[str] | Read,
    overrides: Iterable[str] = (),
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    data: Data | Mapping[str, Any] | None = None,
    console: Console | None = None,
    accelerator: Any = None,
) -> RunResult:
    """Carry a recipe out.

    Every step ends in a stage: weights, plan and measurements, which appear together or not at all.
    A run that was stopped at any moment goes on after the last of them, and comes to the same
    weights, bit for bit, on the same machine with the same versions.

    Parameters
    ----------
    recipe : path-like
        A YAML file, or what `read_recipe` made of one.
    overrides : iterable of str
        ``key.path=value``, instead of what the file says.
    out : path-like, optional
        The run's folder; ``runs/NAME`` by default.
    resume : bool
        Go on with a run that is there, if it is of the same recipe.
    data : Data or mapping, optional
        In place of the recipe's: parts as pairs of tensors or torch DataLoaders.
    console : rich.console.Console, optional
        Where progress goes; silent by default.
    accelerator : accelerate.Accelerator or False, optional
        As for :func:`secateur.recover`: processes that train together. The first of them does
        everything else and writes everything; the others read what it wrote, so the folder has to
        be one that all of them see.

    Returns
    -------
    RunResult

    Raises
    ------
    RecipeError
        When the recipe, what it names or the folder cannot be used; the message names line and key.
    FileFormatError
        When a stage was changed since it was written.
    RankError
        When another process failed.
    SecateurError
        What the functions raise that the steps stand for.
    """
    read = recipe if isinstance(recipe, Read) else read_recipe(recipe, overrides)
    folder = RunFolder(Path(out) if out is not None else Path("runs") / read.recipe.name)
    ranks = found_ranks(accelerator)
    with ExitStack() as stack:
        ranks.leading("opening the folder", lambda: stack.enter_context(folder.alone()))
        return _run(read, folder, data, console if ranks.leads else None, resume, ranks)


def _run(
    read: Read,
    folder: RunFolder,
    data: Data | Mapping[str, Any] | None,
    console: Console | None,
    resume: bool,
    ranks: Ranks,
) -> RunResult:
    here = {**environment(), "threads": str(torch.get_num_threads())}
    ranks.leading("opening the run", lambda: folder.open(read.recipe, here, resume=resume))
    begun = folder.environment()
    for package in ("torch", "processor"):
        if begun[package] != here[package]:
            warnings.warn(
                f"this run was begun with {package} {begun[package]}, and goes on with "
                f"{here[package]}: its result may differ in the last bits",
                stacklevel=3,
            )
    # Sums depend on how they are split over threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(int(begun["threads"]))
    try:
        with Steps(console) as steps:
            return _carry_out(read, folder, data, steps, begun, ranks)
    finally:
        torch.set_num_threads(threads)


def _carry_out(
    read: Read,
    folder: RunFolder,
    data: Data | Mapping[str, Any] | None,
    steps: Steps,
    begun: dict[str, str],
    ranks: Ranks,
) -> RunResult:
    with steps.step("Opening model and data"), ranks.joined("opening model and data"):
        work = open_work(read, folder, data, ranks)
    stages = [_stage(work, START, partial(_begin, work, steps))]
    for task in tasks_of(read.recipe):
        stages.append(_stage(work, task.name, partial(_do, work, task, stages[-1], steps)))
        ranks.leading("metrics", partial(write_metrics, folder, stages))
    weights = folder.path / "model.safetensors"
    report = ranks.leading("the report", lambda: _finish(work, stages, begun, weights, steps))
    return RunResult(folder.path, weights, stages, report)


def _finish(
    work: Work,
    stages: list[dict[str, Any]],
    begun: dict[str, str],
    weights: Path,
    steps: Steps,
) -> Path | None:
    """Write what is made of the stages; the report's path, if there is one."""
    folder = work.folder
    with writing(weights), replacing(weights) as draft:
        shutil.copyfile(folder.weights(stages[-1]["weights"]), draft)
    with writing(folder.path / "tensorboard"):
        write_events(lines(stages), folder.path / "tensorboard")
    if not work.recipe.report.enabled:
        return None
    with steps.step("Writing the report"), writing(folder.path / "report.html"):
        timed = timings(work, stages)
        if any(importlib.util.find_spec(name) is None for name in ("matplotlib", "jinja2")):
            return None
        return write_summary(work.read, folder, stages, begun, timed)


def _stage(work: Work, name: str, make: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """A stage that is there, or is made now; the same notes in every process."""
    known = _kept(work.folder, name)
    advice = "give all of them one folder that every machine sees"
    work.ranks.same(f"whether there is a stage {name}", known is not None, advice)
    if known is None:
        known = make()
        # The others read what the first process wrote.
        known = known or _kept(work.folder, name)
    assert known is not None
    return known


def _kept(folder: RunFolder, name: str) -> dict[str, Any] | None:
    """A stage that was finished earlier."""
    known = folder.read_stage(name)
    if known is not None and known.get("name") != name:
        raise FileFormatError(f"stage {name!r} of {folder.path} holds another one's notes")
    return known


def _begin(work: Work, steps: Steps) -> dict[str, Any] | None:
    """Keep the model that the run begins with; None in processes that follow."""

    def begin() -> dict[str, Any]:
        with steps.step("Measuring the model"):
            return _keep(work, START, start(work.read), Outcome("at the start"), {}, 0.0)

    return work.ranks.leading(START, begin)


def _do(work: Work, task: Task, last: dict[str, Any], steps: Steps) -> dict[str, Any] | None:
    """Carry one task out on the model as the last one left it; None in processes that follow."""
    started = time.perf_counter()

    def keep(model: nn.Module, outcome: Outcome) -> dict[str, Any]:
        seconds = time.perf_counter() - started
        return _keep(work, task.name, model, outcome, last, seconds)

    def do(tick: Tick) -> tuple[nn.Module, Outcome]:
        model = work.model_at(last["weights"])
        with work.read.at(*task.key):
            return model, _DOING[task.kind](work, task, model, tick)

    with steps.step(f"{task.number:02d} {task.kind}") as tick:
        if task.kind in _TOGETHER:
            with work.ranks.joined(task.name):
                done = do(tick)
            return work.ranks.leading(f"keeping {task.name}", lambda: keep(*done))
        return work.ranks.leading(task.name, lambda: keep(*do(tick)))


def _keep(
    work: Work,
    name: str,
    model: nn.Module,
    outcome: Outcome,
    last: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Measure the model, and write the stage."""
    notes = {
        **last,
        **(_measured(work, model) | {"weights": name} if outcome.changed else {}),
        "name": name,
        "label": outcome.label,
        "seconds": round(seconds, 3),
        "metrics": outcome.metrics,
        # As they are read back.
        "notes": json.loads(json.dumps(outcome.notes)),
    }
    with writing(work.folder.path / "stages" / name), work.folder.stage(name) as draft:
        if outcome.changed:
            save(model, draft / "weights.safetensors")
        for number, plan in enumerate(outcome.plans):
            file = f"plan-{number + 1}.json" if number else "plan.json"
            (draft / file).write_text(plan.to_json(), encoding="utf-8")
        (draft / "stage.json").write_text(json.dumps(notes, indent=2), encoding="utf-8")
    return notes


def _measured(work: Work, model: nn.Module) -> dict[str, Any]:
    """What the model costs, and how good it is."""
    cost, score = profile(model, work.inputs), work.score(model)
    return {
        **{key: getattr(cost, key) for key in MEASURED},
        "loss": None if score is None else score.loss,
        "accuracy": None if score is None else score.accuracy,
    }
