"""Runs side by side, from their folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.errors import InputError
from secateur.recipes.document import spelled
from secateur.recipes.folder import flat
from secateur.recipes.kept import KeptRun, open_run
from secateur.recipes.summary import points_of, stage_of
from secateur.report.compared import Compared, RunSides, write_comparison

__all__ = ["compare_runs"]

# What a run is called, and whether it has a report, is no difference.
_IDLE = ("name", "report")
ABSENT = "—"


def compare_runs(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write one page that compares runs.

    Parameters
    ----------
    paths : sequence of path-like
        The folders of two runs or more.
    out : path-like
        The HTML file.

    Raises
    ------
    InputError
        For fewer than two runs, or one given twice.
    RecipeError
        Where there is no finished run.
    MissingExtraError
        When Jinja2 or matplotlib is not installed.
    """
    where = [Path(path).resolve() for path in paths]
    if len(where) < 2 or len(set(where)) < len(where):
        raise InputError("a comparison is of two runs or more, each given once")
    runs = [open_run(path) for path in paths]
    names = _names(where, runs)
    recipes = [_values(run) for run in runs]
    return write_comparison(
        Compared(
            [_sides(run, name) for run, name in zip(runs, names, strict=True)],
            _differences(recipes),
            _differences([run.environment for run in runs]),
        ),
        Path(out),
    )


def _names(paths: Sequence[Path], runs: Sequence[KeptRun]) -> list[str]:
    """What the recipes are called; the folders, and as much of their paths as tells them apart."""
    names = [run.read.recipe.name for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return names


def _sides(run: KeptRun, name: str) -> RunSides:
    first, last = run.stages[0], run.stages[-1]
    return RunSides(
        name,
        stage_of(run.folder, first, run.timings.get("dense")),
        stage_of(run.folder, last, run.timings.get("final")),
        points_of(run.stages),
        sum(stage["seconds"] for stage in run.stages),
    )


def _values(run: KeptRun) -> dict[str, Any]:
    """Every key of a recipe as an override would write it."""
    return {
        spelled(key): value for key, value in flat(run.read.document.values) if key[0] not in _IDLE
    }


def _differences(given: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Keys whose values are not all the same, with the value of each."""
    keys = dict.fromkeys(key for values in given for key in values)
    shown = {key: [_text(values, key) for values in given] for key in keys}
    return {key: texts for key, texts in shown.items() if len(set(texts)) > 1}


def _text(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return ABSENT
    value = values[key]
    return value if isinstance(value, str) else json.dumps(value)
