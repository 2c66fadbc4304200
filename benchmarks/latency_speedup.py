"""Measured speed-up over MAC reduction, by the sizes that layers may have.

python -m benchmarks.latency_speedup
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import secateur as sc
from benchmarks.common import DOCS, heading, machine, markdown_table, write_results
from benchmarks.speed_models import build
from secateur.costs import CostModel
from secateur.inputs import as_inputs, evaluating
from secateur.latency import as_runtime
from secateur.profiling import interleave

MODELS = ("resnet50", "mobilenet_v2", "vit_b_16")
RUNTIMES = ("torch", "onnxruntime", "openvino")
SIZES: tuple[int | str, ...] = (1, 8, "auto")
FRACTION, GOAL = 0.5, 0.8


def prune_all(
    model: nn.Module, example: torch.Tensor, table: sc.LatencyTable
) -> dict[int | str, sc.Result]:
    """The model cut to the budget, once for every rule for its sizes."""
    return {
        sizes: sc.prune(
            copy.deepcopy(model),
            example,
            budget={"macs": FRACTION},
            round_to=sizes,
            latency=table if sizes == "auto" else None,
        )
        for sizes in SIZES
    }


def one(name: str, runtime: str, options: argparse.Namespace) -> dict[str, Any]:
    """All versions of a model against each other, in one interleaved run."""
    model, example = build(name)
    table = sc.LatencyTable.measure(
        model,
        example,
        runtime,
        threads=options.threads,
        points=options.points,
        runs=options.table_runs,
        cache=Path(options.tables) / f"{name}-{runtime}.json",
    )
    results = prune_all(model, example, table)
    inputs = as_inputs(example)
    place = as_runtime(runtime)(torch.float32, torch.device("cpu"), options.threads)
    calls = {}
    for label, version in [("dense", model), *((s, r.model) for s, r in results.items())]:
        with evaluating(version):
            calls[str(label)] = place.model(version.eval(), inputs)
    timed = interleave(
        calls, runs=options.runs, warmup=5, seconds=options.seconds, threads=options.threads
    )
    rows = {}
    for sizes, result in results.items():
        reduction = result.before.macs / result.after.macs
        speedup = timed["dense"].ratio(timed[str(sizes)])
        rows[str(sizes)] = {
            "reduction": reduction,
            "speedup": speedup,
            "share": speedup / reduction,
            "spread_ms": timed[str(sizes)].spread_ms,
            "median_ms": timed[str(sizes)].median_ms,
        }
    return {
        "sizes": rows,
        "rounds": timed["dense"].runs,
        "tolerance": table.tolerance,
        "fixed": fixed_share(model, example, table),
    }


def fixed_share(model: nn.Module, example: torch.Tensor, table: sc.LatencyTable) -> float:
    """The share of the latency that is left with one unit in every group, by the table."""
    graph = sc.trace(model, example)
    costs = CostModel(graph, model, measures={"latency": 1.0}, table=table)
    gone = np.zeros(graph.n_classes, dtype=bool)
    for group in graph.groups:
        gone[group.units(np.zeros(graph.n_classes))[:-1].ravel()] = True
    return costs(gone)["latency"] / costs.dense["latency"]


def reasons(entries: dict[str, Any]) -> list[str]:
    """Why some do not reach the goal: what no width changes, and what only the width does."""
    said = []
    for entry, found in entries.items():
        fixed = found["fixed"]
        if found["sizes"]["auto"]["share"] < GOAL:
            said.append(
                f"{entry} does not: {fixed:.0%} of its latency are left, by the table, with a "
                "single channel in every layer (what every operation costs whatever its size), "
                f"so that even half of all the rest would make it {2 / (1 + fixed):.2f} times as "
                "fast; and depthwise convolutions, norms and activations shrink with the width, "
                "while MACs shrink with its square."
            )
    return said


def page(results: dict[str, Any]) -> str:
    rows = [
        [
            *entry.split(" in "),
            sizes,
            f"{row['reduction']:.2f}",
            f"{row['speedup']:.2f}",
            f"{row['share']:.2f}",
        ]
        for entry, found in results["entries"].items()
        for sizes, row in found["sizes"].items()
    ]
    columns = ["model", "runtime", "round_to", "MAC reduction", "speed-up", "speed-up / reduction"]
    counts = sorted({found["rounds"] for found in results["entries"].values()})
    rounds = str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    reached = [found["sizes"]["auto"]["share"] for found in results["entries"].values()]
    met = sum(share >= GOAL for share in reached)
    return "\n".join(
        [
            "# Speed-up over MAC reduction",
            "",
            f"Models at {FRACTION:g} of their MACs or just below, batch 1 at 224×224, with sizes "
            "of any number, multiples of 8, and those that a latency table of the same runtime "
            "says are fast. Speed-ups are medians of the ratios of "
            f"{rounds} rounds, in each of which the dense model and every version ran.",
            "",
            markdown_table(columns, rows, left=3),
            "",
            " ".join(
                [
                    f'With `round_to="auto"`, {met} of {len(reached)} reach {GOAL:g} of what the '
                    "MACs promise.",
                    *reasons(results["entries"]),
                ]
            ),
            "",
            f"{heading(results['machine'])}. Made by `python -m benchmarks.latency_speedup`.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--points", type=int, default=8, help="steps along each size, at most")
    parser.add_argument("--table-runs", type=int, default=10, help="timed runs of every size")
    parser.add_argument("--runs", type=int, default=100, help="rounds of the comparison")
    parser.add_argument("--seconds", type=float, default=300, help="limit of the comparison")
    parser.add_argument("--tables", default=".cache/latency", help="folder of the tables")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the page")
    options = parser.parse_args()
    installed = [name for name in RUNTIMES if name == "torch" or importlib.util.find_spec(name)]
    torch.set_num_threads(options.threads)
    entries = {}
    for name in options.model:
        for runtime in options.runtime or installed:
            entries[f"{name} in {runtime}"] = found = one(name, runtime, options)
            for sizes, row in found["sizes"].items():
                print(f"{name} {runtime} round_to={sizes}: {row['share']:.2f}", flush=True)
    where = machine(options.threads, ["torchvision", "onnxruntime", "openvino"])
    results = {"machine": where, "entries": entries}
    write_results("latency_speedup", results, page(results), options.out)
    print(page(results))


if __name__ == "__main__":
    main()
