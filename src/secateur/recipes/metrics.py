"""What a run measured, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from secateur.recipes.folder import RunFolder, writing

__all__ = ["MEASURED", "lines", "write_metrics"]

MEASURED = ("macs", "params", "nonzero", "bytes")


def lines(stages: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One line for every epoch, and one for every stage."""
    measured = (*MEASURED, "loss", "accuracy", "seconds")
    for stage in stages:
        for epoch in stage["metrics"]:
            yield {"step": stage["name"], **epoch}
        yield {
            "step": stage["name"],
            **{key: stage[key] for key in measured},
        }


def write_metrics(folder: RunFolder, stages: Iterable[Mapping[str, Any]]) -> None:
    """Write the lines of all stages, whole or not at all."""
    text = "".join(json.dumps(line) + "\n" for line in lines(stages))
    with writing(folder.path / "metrics.jsonl"):
        folder.write("metrics.jsonl", text)
