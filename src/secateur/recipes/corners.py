"""Dense and pruned, in float32 and in 8-bit integers: how good and how fast each of the four is."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.export import Quantized, export, quantize
from secateur.export.quantized import session_of
from secateur.inputs import Inputs
from secateur.observing.batches import read_batch
from secateur.profiling import interleave
from secateur.recipes.folder import START
from secateur.recipes.steps import Quantize
from secateur.recipes.tasks import Task, tasks_of
from secateur.recipes.timing import TIMED_BATCH
from secateur.recipes.work import EVALUATION_BATCH, Work
from secateur.recover.batches import count_hits

__all__ = ["accuracy_of", "corners", "settings"]

DENSE, PRUNED = "dense", "pruned"


@dataclasses.dataclass(frozen=True)
class _File:
    """One of the four."""

    model: str
    numbers: str
    path: Path
    size: int
    inputs: tuple[str, ...]


def settings(options: Quantize) -> dict[str, Any]:
    """What `secateur.export.quantize` is told."""
    return options.model_dump(exclude={"file", "batches", "finetune", "compare"})


def corners(work: Work, task: Task, model: nn.Module, made: Quantized) -> list[dict[str, Any]]:
    """Measure the four on the test part; the times are of one run in which they take turns.

    Without a step that pruned before, there are two.

    Returns
    -------
    list of dict
        ``model``, ``numbers``, ``bytes``, ``accuracy`` (None without classes), ``ms``, ``spread``
        and ``samples``, with the ``batch`` and the ``threads``.
    """
    options = task.options
    assert isinstance(options, Quantize)
    earlier = tasks_of(work.recipe)[: task.number - 1]
    name = PRUNED if any(each.kind in ("prune", "sparsify") for each in earlier) else DENSE
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        files = [
            _in_float(work, model, name, made, Path(folder)),
            _File(name, "int8", made.path, made.size, made.inputs),
        ]
        if name == PRUNED:
            dense = work.model_at(START)
            rounded = quantize(
                dense,
                work.inputs,
                Path(folder) / f"rounded{made.path.suffix}",
                work.training(seed=work.recipe.seed, most=options.batches),
                **settings(options),
            )
            files[:0] = [
                _in_float(work, dense, DENSE, made, Path(folder)),
                _File(DENSE, "int8", rounded.path, rounded.size, rounded.inputs),
            ]
        return _measured(work, files)


def _in_float(work: Work, model: nn.Module, name: str, made: Quantized, folder: Path) -> _File:
    path = folder / f"{name}{made.path.suffix}"
    whole = export(model, work.inputs, path, check=False)
    return _File(name, "float32", whole.path, whole.size, whole.inputs)


def _measured(work: Work, files: Sequence[_File]) -> list[dict[str, Any]]:
    batch = next(iter(work.need_data().test.batches(TIMED_BATCH)))
    tensors = [tensor for _, tensor in _inputs(batch).tensors()]
    sessions = {f"{file.model} {file.numbers}": session_of(file.path) for file in files}
    timed = interleave(
        {
            name: partial(session, file.inputs, tensors)
            for (name, session), file in zip(sessions.items(), files, strict=True)
        },
        seconds=work.recipe.report.seconds,
        batch=len(tensors[0]),
    )
    return [
        {
            "model": file.model,
            "numbers": file.numbers,
            "bytes": file.size,
            "accuracy": accuracy_of(work, file.path, file.inputs),
            "ms": timing.median_ms,
            "spread": timing.spread_ms,
            "samples": list(timing.samples_ms),
            "batch": timing.batch,
            "threads": timing.threads,
        }
        for file, timing in zip(files, timed.values(), strict=True)
    ]


def accuracy_of(work: Work, file: Path, names: Sequence[str]) -> float | None:
    """Of the file on the test part; None where it cannot take its batches, or without classes."""
    session = session_of(file)
    hits = labels = 0
    for batch in work.need_data().test.batches(EVALUATION_BATCH):
        inputs, targets = read_batch(batch)
        output: Tensor = session(names, [tensor for _, tensor in inputs.tensors()])[0]
        found = count_hits(output, targets)
        hits, labels = hits + found[0], labels + found[1]
    return hits / labels if labels else None


def _inputs(batch: Any) -> Inputs:
    return read_batch(batch)[0]
