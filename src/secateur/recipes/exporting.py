"""The steps ``export`` and ``quantize``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from secateur.export import export
from secateur.export.check import OnnxSession
from secateur.export.quantized import quantize
from secateur.inputs import Inputs
from secateur.observing.batches import read_batch
from secateur.progress import Tick
from secateur.recipes.outcome import Outcome
from secateur.recipes.steps import Export, Quantize
from secateur.recipes.tasks import Task
from secateur.recipes.work import EVALUATION_BATCH, Work
from secateur.recover.batches import count_hits

__all__ = ["export_model", "quantize_model"]


def export_model(work: Work, task: Task, model: nn.Module, tick: Tick) -> Outcome:
    """Write the model as ONNX, checked."""
    options = task.options
    assert isinstance(options, Export)
    path = work.folder.exports / options.file
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        made = export(model, work.inputs, path, **options.model_dump(exclude={"file"}))
    said = [" ".join(str(each.message).split()) for each in caught if _meant(each)]
    notes: dict[str, Any] = {
        "file": options.file,
        "bytes": made.size,
        "error": made.error,
        "opset": made.opset,
        "remarks": said,
    }
    return Outcome(f"exported {options.file}", changed=False, notes=notes)


def quantize_model(work: Work, task: Task, model: nn.Module, tick: Tick) -> Outcome:
    """Write the model as ONNX in 8-bit integers, and see how good that is."""
    options = task.options
    assert isinstance(options, Quantize)
    made = quantize(
        model,
        work.inputs,
        work.folder.exports / options.file,
        work.training(seed=work.recipe.seed, most=options.batches),
        **options.model_dump(exclude={"file", "batches"}),
    )
    notes: dict[str, Any] = {
        "file": options.file,
        "bytes": made.size,
        "dense_bytes": made.dense_size,
        "error": made.error,
        "int8": True,
        "accuracy": _accuracy(work, made.path, made.inputs),
    }
    return Outcome(f"quantized {options.file}", changed=False, notes=notes)


def _meant(warning: warnings.WarningMessage) -> bool:
    """Whether this package gave it."""
    return warning.category is UserWarning and "batch size" in str(warning.message)


def _accuracy(work: Work, file: Path, names: Sequence[str]) -> float | None:
    """Of the file on the test part; None where it cannot take its batches, or without classes."""
    session = OnnxSession(file)
    hits = labels = 0
    for batch in work.need_data().test.batches(EVALUATION_BATCH):
        inputs: Inputs
        inputs, targets = read_batch(batch)
        output = session(names, [tensor for _, tensor in inputs.tensors()])[0]
        found = count_hits(output, targets)
        hits, labels = hits + found[0], labels + found[1]
    return hits / labels if labels else None
