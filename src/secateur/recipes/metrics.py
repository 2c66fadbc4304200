"""What a run measured, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from secateur.recipes.folder import RunFolder, writing

__all__ = ["MEASURED", "accuracy_of", "lines", "write_metrics"]

MEASURED = ("macs", "params", "nonzero", "bytes")


def accuracy_of(stage: Mapping[str, Any]) -> float | None:
    """How good what a stage made is: of a quantised file, its own accuracy."""
    return stage["notes"].get("accuracy", stage["accuracy"])


def lines(stages: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One line for every epoch, and one for every stage."""
    for stage in stages:
        for epoch in stage["metrics"]:
            yield {"step": stage["name"], **epoch}
        int8 = stage["notes"].get("int8", False)
        yield {
            "step": stage["name"],
            **{key: stage[key] for key in MEASURED},
            # Only the accuracy of a quantised file is measured.
            "loss": None if int8 else stage["loss"],
            "accuracy": accuracy_of(stage),
            "int8": int8,
            "seconds": stage["seconds"],
        }


def write_metrics(folder: RunFolder, stages: Iterable[Mapping[str, Any]]) -> None:
    """Write the lines of all stages, whole or not at all."""
    text = "".join(json.dumps(line) + "\n" for line in lines(stages))
    with writing(folder.path / "metrics.jsonl"):
        folder.write("metrics.jsonl", text)
