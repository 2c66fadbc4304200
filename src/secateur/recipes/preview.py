"""What a recipe would do, with MACs, without doing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.data import Data
from secateur.profiling import profile
from secateur.prune import prune
from secateur.recipes.deciding import arguments, described
from secateur.recipes.folder import RunFolder
from secateur.recipes.reading import Read
from secateur.recipes.steps import Deciding, Finetune
from secateur.recipes.tasks import Task, tasks_of
from secateur.recipes.work import open_work, start

__all__ = ["Line", "Preview", "preview"]


@dataclasses.dataclass(frozen=True)
class Line:
    """One task, and the model after it.

    Attributes
    ----------
    name : str
    what : str
    macs, params, nonzero : int
    """

    name: str
    what: str
    macs: int
    params: int
    nonzero: int


@dataclasses.dataclass(frozen=True)
class Preview:
    """What a recipe would do.

    Attributes
    ----------
    folder : pathlib.Path
    lines : list of Line
        The model at the start first.
    data : str
        How many examples each part has; empty without data.
    estimated : bool
        Whether units were chosen by magnitude, all over the model, instead of by what the recipe
        says: scores may need a model that was trained, and searches their time.
    """

    folder: Path
    lines: list[Line]
    data: str
    estimated: bool


def preview(
    read: Read, *, out: Path | None = None, data: Data | Mapping[str, Any] | None = None
) -> Preview:
    """Go through a recipe without training, and without writing anything.

    Budgets are carried out on a copy of the model, so that sizes are those that its couplings and
    multiples allow.

    Raises
    ------
    SecateurError
        As `run_recipe` would.
    """
    path = out or Path("runs") / read.recipe.name
    work = open_work(read, RunFolder(path), data)
    model = start(read)
    dense = profile(model, work.inputs)
    lines = [Line("00-start", read.recipe.model.source, dense.macs, dense.params, dense.nonzero)]
    base: dict[str, float] | None = None
    estimated = False
    for task in tasks_of(read.recipe):
        options = task.options
        if isinstance(options, Deciding):
            given = arguments(options)
            simple = {"criterion": "magnitude", "allocation": "global"}
            estimated |= any(given[key] != value for key, value in simple.items())
            given.update(simple)
            if given["budget"] and "accuracy_drop" not in given["budget"]:
                with read.at(*task.key):
                    result = prune(model, work.inputs, verify=False, base=base, **given)
                dense_costs = {key: pair[0] for key, pair in result.costs.items()}
                base = base or dense_costs or None
            else:
                estimated = True
        cost = profile(model, work.inputs)
        lines.append(Line(task.name, _what(task), cost.macs, cost.params, cost.nonzero))
    return Preview(path, lines, _counts(work.data), estimated)


def _what(task: Task) -> str:
    options = task.options
    if isinstance(options, Deciding):
        return described(options)
    if isinstance(options, Finetune):
        return f"{options.epochs} epochs, {options.optimizer}, lr {options.lr:g}"
    return f"exports/{getattr(options, 'file', task.kind)}"


def _counts(data: Data | None) -> str:
    if data is None:
        return ""
    parts = (("train", data.train), ("val", data.val), ("test", data.test))
    return f"{data.name}: " + ", ".join(f"{len(part)} {name}" for name, part in parts)
