"""How the time of pruning grows with depth: it should be linear.

ResNets 18 to 152 and DenseNets 121 to 201, as published, and a ResNet whose widths stay while
its blocks, and with them its coupled groups, double. The exponent is the slope of log seconds
over log layers; 1 is linear.

    python -m benchmarks.scaling
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.common import heading, machine, markdown_table, run_limited, write_results

FAMILIES: dict[str, Sequence[int]] = {
    "resnet": (18, 34, 50, 101, 152),
    "densenet": (121, 169, 201),
    "blocks": (2, 4, 8, 16, 32),
}
TITLES = {
    "resnet": "ResNets",
    "densenet": "DenseNets",
    "blocks": "A bottleneck ResNet, blocks a stage",
}


def exponent(records: Sequence[dict[str, Any]], over: str) -> float:
    """Return the least-squares slope of log seconds over the logarithm of a count."""
    xs = [math.log(record[over]) for record in records]
    ys = [math.log(record["seconds"]) for record in records]
    x, y = statistics.fmean(xs), statistics.fmean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum(
        (a - x) ** 2 for a in xs
    )


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {}
    for family, sizes in FAMILIES.items():
        results[family] = []
        for size in sizes:
            outcome = run_limited(
                "benchmarks.scaling_one",
                [family, str(size), str(options.runs)],
                seconds=options.seconds,
                memory_gb=options.memory,
                threads=options.threads,
            )
            if outcome.value is None:
                last = (outcome.log.strip().splitlines() or [""])[-1]
                raise SystemExit(f"{family} {size}: {outcome.failure} ({last})")
            results[family].append(outcome.value)
            print(f"{family} {size}: {outcome.value['seconds']:.3f} s", flush=True)
    return results


def fragment(where: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> str:
    parts = [
        "# Time against depth",
        "",
        "Graph, plan and surgery to half the MACs, medians. The exponent is the slope of log "
        "seconds over log layers (or groups): 1 is linear.",
        "",
    ]
    for family, records in results.items():
        rows = [
            [
                r["size"],
                r["layers"],
                r["groups"],
                f"{r['parameters'] / 1e6:.1f}",
                f"{r['seconds']:.3f}",
                f"{1e3 * r['seconds'] / r['layers']:.2f}",
            ]
            for r in records
        ]
        columns = ["", "layers", "groups", "M parameters", "seconds", "ms a layer"]
        parts += [
            f"## {TITLES[family]}",
            "",
            markdown_table(columns, rows),
            "",
            f"Exponent over layers **{exponent(records, 'layers'):.2f}**, "
            f"over coupled groups {exponent(records, 'groups'):.2f}.",
            "",
        ]
    parts.append(f"Measured on {heading(where)}. Made by `python -m benchmarks.scaling`.")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--memory", type=float, default=16)
    options = parser.parse_args()
    where = machine(options.threads, ("torchvision",))
    print(heading(where))
    results = measure(options)
    text = fragment(where, results)
    write_results("scaling", {"machine": where, "results": results}, text)
    print()
    print(text)


if __name__ == "__main__":
    main()
