"""Global magnitude pruning against torch.nn.utils.prune.global_unstructured, in one run.

Both set the smallest 90 % of all convolution and linear weights to zero, by one ranking. Every
measurement is a process of its own; the tools take turns. Time is that of choosing and applying
masks; extra memory is the peak above what the process held before.

    python -m benchmarks.global_magnitude
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.common import heading, machine, markdown_table, run_limited, write_results

OURS, TORCH = "secateur", "torch.nn.utils.prune"
MODELS = ("resnet50", "llama_1b_float32")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--memory", type=float, default=22)
    options = parser.parse_args(arguments)
    where = machine(options.threads, ("torchvision", "transformers"))
    print(heading(where))
    results = [compare(model, options) for model in options.only or MODELS]
    text = fragment(where, results)
    if not options.only:
        write_results("global_magnitude", {"machine": where, "results": results}, text)
    print(text)


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let both take turns on one model."""
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], TORCH: []}
    for _ in range(options.runs):
        for tool, records in runs.items():
            request = json.dumps({"tool": tool, "model": model})
            outcome = run_limited(
                "benchmarks.global_magnitude_one",
                [request],
                seconds=options.seconds,
                memory_gb=options.memory,
                threads=options.threads,
            )
            if outcome.value is None:
                last = (outcome.log.strip().splitlines() or [""])[-1]
                print(f"  {model}, {tool}: {outcome.failure} ({last})", flush=True)
                continue
            records.append(outcome.value)
            print(f"  {model}, {tool}: {outcome.value}", flush=True)
    result: dict[str, Any] = {"model": model}
    for tool, records in runs.items():
        if records:
            result[tool] = {
                key: statistics.median(record[key] for record in records) for key in records[0]
            }
    return result


def fragment(where: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Lay the page out."""
    columns = ["model", "Secateur, s", "PyTorch, s", "ratio", "Secateur, extra MB",
               "PyTorch, extra MB", "ratio", "zeros, both"]  # fmt: skip
    rows = []
    for result in results:
        if OURS not in result or TORCH not in result:
            rows.append([result["model"], *["did not finish"] * 7])
            continue
        ours, theirs = result[OURS], result[TORCH]
        rows.append([
            result["model"], f"{ours['seconds']:.2f}", f"{theirs['seconds']:.2f}",
            f"{ours['seconds'] / theirs['seconds']:.2f}", f"{ours['extra_mb']:,.0f}",
            f"{theirs['extra_mb']:,.0f}", f"{ours['extra_mb'] / theirs['extra_mb']:.2f}",
            f"{ours['zeros']:.4f}, {theirs['zeros']:.4f}",
        ])  # fmt: skip
    return "\n".join([
        "# Global magnitude pruning",
        "",
        "The smallest 90 % of all weights of convolutions and linear layers, medians over "
        "interleaved processes; ratios below 1 are in Secateur's favour.",
        "",
        markdown_table(columns, rows),
        "",
        f"Measured on {heading(where)}. Made by `python -m benchmarks.global_magnitude`.",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
