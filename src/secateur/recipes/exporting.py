"""The steps ``export`` and ``quantize``."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from secateur.export import export
from secateur.export.quantized import quantize
from secateur.progress import Tick
from secateur.recipes.corners import accuracy_of, corners, settings
from secateur.recipes.outcome import Outcome
from secateur.recipes.steps import Export, Quantize
from secateur.recipes.tasks import Task
from secateur.recipes.work import Work

__all__ = ["export_model", "quantize_model"]


def export_model(work: Work, task: Task, model: nn.Module, tick: Tick) -> Outcome:
    """Write the model for a runtime, checked."""
    options = task.options
    assert isinstance(options, Export)
    path = work.folder.exports / options.file
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        made = export(model, work.inputs, path, **options.model_dump(exclude={"file"}))
    said = [" ".join(str(each.message).split()) for each in caught if _meant(each)]
    notes: dict[str, Any] = {
        "file": made.path.name,
        "target": made.target,
        "bytes": made.size,
        "error": made.error,
        "opset": made.opset,
        "remarks": said,
    }
    if made.command is not None:
        notes["remarks"] = [*said, f"build the engine with: {made.command}"]
    return Outcome(f"exported {made.path.name}", changed=False, notes=notes)


def quantize_model(work: Work, task: Task, model: nn.Module, tick: Tick) -> Outcome:
    """Write the model in 8-bit integers, and see how good that is."""
    options = task.options
    assert isinstance(options, Quantize)
    made = quantize(
        model,
        work.inputs,
        work.folder.exports / options.file,
        work.training(seed=work.recipe.seed, most=options.batches),
        **settings(options),
    )
    notes: dict[str, Any] = {
        "file": options.file,
        "bytes": made.size,
        "dense_bytes": made.dense_size,
        "error": made.error,
        "int8": True,
        "accuracy": accuracy_of(work, made.path, made.inputs),
    }
    if options.compare:
        notes["corners"] = corners(work, task, model, made)
    return Outcome(f"quantized {options.file}", changed=False, notes=notes)


def _meant(warning: warnings.WarningMessage) -> bool:
    """Whether this package gave it."""
    return warning.category is UserWarning and "batch size" in str(warning.message)
