"""How fast the first and the last model of a run are: timed once, and kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.errors import FileFormatError
from secateur.profiling import Timing, compare
from secateur.recipes.folder import START, RunFolder
from secateur.recipes.work import Work

__all__ = ["kept_timings", "timings"]

TIMED_BATCH = 64
FILE = "latency.json"


def timings(work: Work, stages: Sequence[Mapping[str, Any]]) -> dict[str, Timing]:
    """Time both, taking turns, unless that was done; nothing where the recipe wants none."""
    if not work.recipe.report.latency:
        return {}
    known = kept_timings(work.folder)
    if known:
        return known
    inputs = work.inputs
    if work.data is not None:
        batch = next(iter(work.data.test.batches(TIMED_BATCH)))[0]
        if isinstance(batch, Tensor):
            inputs = dataclasses.replace(inputs, args=(batch,), kwargs={})
    models = {"dense": work.model_at(START), "final": work.model_at(stages[-1]["weights"])}
    with torch.random.fork_rng(devices=[]):
        timed = compare(models, inputs, seconds=work.recipe.report.seconds)
    kept = {name: dataclasses.asdict(timing) for name, timing in timed.items()}
    work.folder.write(FILE, json.dumps(kept) + "\n")
    return timed


def kept_timings(folder: RunFolder) -> dict[str, Timing]:
    """What was measured when the run ended; empty where nothing was.

    Raises
    ------
    FileFormatError
        Where the file was changed since.
    """
    path = folder.path / FILE
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Timing(**{**each, "samples_ms": tuple(map(float, each["samples_ms"]))})
            for name, each in kept.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} was changed after it was written: {error}") from error
