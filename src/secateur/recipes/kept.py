"""A run that was finished, read from its folder."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from secateur.errors import FileFormatError, RecipeError
from secateur.profiling import Timing
from secateur.recipes.folder import START, RunFolder
from secateur.recipes.reading import Read, read_keys
from secateur.recipes.summary import write_summary
from secateur.recipes.tasks import tasks_of
from secateur.recipes.timing import kept_timings

__all__ = ["KeptRun", "open_run", "report_run"]


@dataclasses.dataclass(frozen=True)
class KeptRun:
    """What a run left.

    Attributes
    ----------
    read : Read
    folder : RunFolder
    stages : list of dict
        The model at the start first.
    environment : dict
        Versions and machine.
    timings : dict of str to Timing
        Of ``dense`` and ``final``; empty where nothing was timed.
    """

    read: Read
    folder: RunFolder
    stages: list[dict[str, Any]]
    environment: dict[str, str]
    timings: dict[str, Timing]


def open_run(path: str | os.PathLike[str]) -> KeptRun:
    """Read a run; neither its data nor the files that its recipe names are asked for.

    Raises
    ------
    RecipeError
        Where there is none, or it is not finished.
    FileFormatError
        Where it was changed since.
    """
    folder = RunFolder(Path(path))
    written, kept = folder.path / "recipe.yaml", folder.path / "environment.json"
    if not written.is_file() or not kept.is_file():
        raise RecipeError(
            f"{folder.path} holds no run of a recipe: there is no recipe.yaml with an "
            "environment.json in it"
        )
    read = read_keys(written)
    stages = []
    for name in [START, *(task.name for task in tasks_of(read.recipe))]:
        stage = folder.read_stage(name)
        if stage is None:
            raise RecipeError(
                f"the run in {folder.path} is not finished: there is no stage {name}; go on with "
                "it by secateur run --resume"
            )
        stages.append(stage)
    try:
        environment = json.loads(kept.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{kept} was changed after it was written: {error}") from error
    return KeptRun(read, folder, stages, environment, kept_timings(folder))


def report_run(path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run anew, from its folder and nothing else.

    Parameters
    ----------
    path : path-like
        The run's folder.
    out : path-like, optional
        The HTML file; ``report.html`` in the folder by default. Latency is what was measured when
        the run ended: nothing is timed anew.

    Raises
    ------
    RecipeError
        Where there is no finished run.
    MissingExtraError
        When Jinja2 or matplotlib is not installed.
    """
    run = open_run(path)
    target = None if out is None else Path(out)
    return write_summary(run.read, run.folder, run.stages, run.environment, run.timings, target)
