"""Accuracy by allocation, at the same budgets of MACs and of latency, after the same recovery.

Every allocation spreads a budget over a shared CIFAR-10 ResNet, where searches try out about as
many models each; the copy is cut, its batch norms are recalibrated, and it is trained for one pass
with each of three seeds. Searches judge on images that are neither trained nor tested on. Cells
are on record as soon as they are measured, so a run that was ended goes on where it stopped.

    python -m benchmarks.allocation_accuracy
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.allocation_cells import TIMED, Bench, Key, Setting, cells, key_of
from benchmarks.allocation_page import page, summary
from benchmarks.common import DOCS, ROOT, heading, machine, write_results
from benchmarks.records import Record

NAME = "allocation_accuracy"
PACKAGES = ("numpy", "onnxruntime", "scipy", "stable-baselines3")
SETTINGS = (
    Setting("resnet20-cifar10-jpeg", "cifar10-jpeg", train=4096, held=250, test=3000),
    Setting(
        "resnet32-cifar10",
        "cifar10-exact-subset",
        train=1024,
        held=250,
        test=1017,
        evaluations=80,
    ),
)
QUICK = (
    dataclasses.replace(SETTINGS[0], train=128, held=50, test=100, calibration=64, evaluations=24),
)


def measure(record: Record[Key], bench: Bench, keys: list[Key]) -> None:
    """Measure what is not on record yet."""
    left = [key for key in keys if key not in record.cells]
    print(f"{len(keys) - len(left)} of {len(keys)} cells are on record", flush=True)
    started = time.perf_counter()
    for done, key in enumerate(left, start=1):
        model, allocation, cost, target, seed = key
        found = cell(record, bench, key)
        record.add(
            {"model": model, "allocation": allocation, "measure": cost, "target": target,
             "seed": seed, **found}
        )  # fmt: skip
        what = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in found.items()
            if name != "plan"
        )
        minutes = (time.perf_counter() - started) / done * (len(left) - done) / 60
        where = f"{model} {allocation} {target:g} of {cost}"
        print(
            f"{where}, {'search' if seed is None else seed}: {what}; {minutes:.0f} minutes left",
            flush=True,
        )


def cell(record: Record[Key], bench: Bench, key: Key) -> dict[str, Any]:
    """One cell: a search, or what comes back after it."""
    *which, seed = key
    if seed is None:
        return bench.search(*which[1:])
    searched = record.cells[(*which, None)]
    if "reason" in searched:
        return {"reason": searched["reason"]}
    if seed == TIMED:
        return bench.timed(searched.get("plan"))
    assert isinstance(seed, int)
    return bench.recovered(searched.get("plan"), seed)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the page goes, docs/benchmarks/")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="few rows, one column, few images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="measure cells of this model alone, and write no page")
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(options.threads)
    where = machine(options.threads, PACKAGES)
    print(heading(where), flush=True)
    settings = QUICK if options.quick else SETTINGS
    models = [setting.model for setting in settings]
    keys = cells(models)
    if options.quick:
        keys = cells(models, ("uniform", "sensitivity", "netadapt", "knapsack"), ("macs",), (0.3,))
    runs = ROOT / "runs"
    folder = runs / (f"{NAME}_quick" if options.quick else NAME)
    records: list[dict[str, Any]] = []
    for setting in settings:
        if options.only not in (None, setting.model):
            continue
        own = [key for key in keys if key[0] == setting.model]
        head = {"machine": where, "settings": dataclasses.asdict(setting)}
        record = Record(folder / f"{setting.model}.jsonl", head, key_of, options.resume)
        measure(record, Bench(setting, folder), own)
        records += [record.cells[key] for key in own]
    if options.only is None:
        found = {"machine": where, "settings": [dataclasses.asdict(each) for each in settings]}
        pages = options.folder or (folder if options.quick else DOCS)
        write_results(NAME, summary(found, records), page(found, records), pages)


if __name__ == "__main__":
    main()
