"""Accuracy against sparsity for every granularity, one-shot and after the same short fine-tuning.

Every cell prunes a copy of a shared CIFAR-10 ResNet to one sparsity at one granularity and counts
right answers on held-out images: as it is, and after one pass over a fixed set of training images
with each of three seeds. Cells are on record as soon as they are measured, so a run that was ended
goes on where it stopped.

    python -m benchmarks.granularity_accuracy
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT, heading, machine
from benchmarks.granularity_cells import Bench, Setting, cells, key_of

RECORD = ROOT / "runs" / "granularity_accuracy.jsonl"
PACKAGES = ("numpy", "safetensors", "pyarrow", "pillow")
SETTINGS = (
    Setting("resnet20-cifar10-jpeg", "cifar10-jpeg", train=1024, test=2000),
    Setting("resnet56-cifar10", "cifar10-exact-subset", train=768, test=1017),
)


class Record:
    """Measured cells as JSON lines, the first of which says how they were measured."""

    def __init__(self, path: Path, head: dict[str, Any], resume: bool) -> None:
        self.path = path
        self.cells: dict[tuple[Any, ...], dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume or not path.exists() or not path.read_text().strip():
            self.head = head
            path.write_text(json.dumps(head) + "\n")
            return
        first, *lines = path.read_text().splitlines()
        self.head = json.loads(first)
        if self.head["settings"] != head["settings"]:
            raise SystemExit(
                f"{path} was measured with other settings; pass --no-resume to start anew"
            )
        for line in lines:
            record = json.loads(line)
            self.cells[key_of(record)] = record

    def add(self, record: dict[str, Any]) -> None:
        self.cells[key_of(record)] = record
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def measure(record: Record, settings: Iterable[Setting], keys: list[tuple[Any, ...]]) -> None:
    """Measure what is not on record yet."""
    known = {setting.model: setting for setting in settings}
    benches: dict[str, Bench] = {}
    left = [key for key in keys if key not in record.cells]
    print(f"{len(keys) - len(left)} of {len(keys)} cells are on record", flush=True)
    started = time.perf_counter()
    for done, (model, granularity, target, seed) in enumerate(left, start=1):
        if model not in benches:
            benches[model] = Bench(known[model])
        found = benches[model].cell(granularity, target, seed)
        record.add(
            {"model": model, "granularity": granularity, "target": target, "seed": seed, **found}
        )
        what = found.get("reason") or f"{found['sparsity']:.4f} zero, {found['accuracy']:.4f} right"
        minutes = (time.perf_counter() - started) / done * (len(left) - done) / 60
        when = "one-shot" if seed is None else f"seed {seed}"
        print(
            f"{model} {granularity} {target:g} {when}: {what}; {minutes:.0f} minutes left",
            flush=True,
        )


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=RECORD, help="JSON lines of the cells")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(options.threads)
    where = machine(options.threads, PACKAGES)
    print(heading(where), flush=True)
    head = {"machine": where, "settings": [dataclasses.asdict(setting) for setting in SETTINGS]}
    record = Record(options.record, head, options.resume)
    measure(record, SETTINGS, cells(tuple(setting.model for setting in SETTINGS)))


if __name__ == "__main__":
    main()
