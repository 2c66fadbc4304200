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
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.common import DOCS, ROOT, heading, machine, write_results
from benchmarks.granularity_cells import CHANNEL, SPARSITIES, Bench, Key, Setting, cells, key_of
from benchmarks.granularity_page import page, summary
from benchmarks.granularity_picture import draw
from benchmarks.records import Record

NAME = "granularity_accuracy"
PACKAGES = ("numpy", "safetensors", "pyarrow", "pillow")
SETTINGS = (
    Setting("resnet20-cifar10-jpeg", "cifar10-jpeg", train=1024, test=2000),
    Setting("resnet56-cifar10", "cifar10-exact-subset", train=768, test=1017),
)
QUICK = (dataclasses.replace(SETTINGS[0], train=64, test=100),)


def measure(record: Record[Key], benches: dict[str, Bench], keys: list[Key]) -> None:
    """Measure what is not on record yet."""
    left = [key for key in keys if key not in record.cells]
    print(f"{len(keys) - len(left)} of {len(keys)} cells are on record", flush=True)
    started = time.perf_counter()
    for done, (model, granularity, target, seed) in enumerate(left, start=1):
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


def write(record: Record[Key], benches: dict[str, Bench], keys: list[Key], folder: Path) -> None:
    """Write the page, its figures and its picture."""
    same = all(
        bench.same_cut(CHANNEL, "filter", 1 - target)
        for bench in benches.values()
        for target in SPARSITIES
    )
    records = [record.cells[key] for key in keys]
    write_results(NAME, summary(record.head, records), page(record.head, records, same), folder)
    draw(record.head, records, folder / f"{NAME}.svg")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="JSON lines of the cells, under runs/")
    parser.add_argument("--folder", type=Path, help="where the page goes, docs/benchmarks/")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="two rows, one column, few images")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(options.threads)
    where = machine(options.threads, PACKAGES)
    print(heading(where), flush=True)
    settings = QUICK if options.quick else SETTINGS
    models = [setting.model for setting in settings]
    keys = cells(models, ("element", "row"), (0.5,)) if options.quick else cells(models)
    head = {"machine": where, "settings": [dataclasses.asdict(setting) for setting in settings]}
    runs = ROOT / "runs"
    name = f"{NAME}_quick" if options.quick else NAME
    record = Record(options.record or runs / f"{name}.jsonl", head, key_of, options.resume)
    benches = {setting.model: Bench(setting) for setting in settings}
    measure(record, benches, keys)
    write(record, benches, keys, options.folder or (runs / name if options.quick else DOCS))


if __name__ == "__main__":
    main()
