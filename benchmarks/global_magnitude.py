"""Global magnitude pruning against torch.nn.utils.prune.global_unstructured, in one run.

Both set the smallest 90 % of all convolution and linear weights to zero, by one ranking. Every
measurement is a process of its own; the tools take turns. Time is that of choosing and applying
masks; extra memory is the peak above what the process held before, and what is left of that
afterwards. A tool that passes a limit is not asked again.

    python -m benchmarks.global_magnitude
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.common import Outcome, heading, machine, markdown_table, run_limited, write_results
from benchmarks.speed_models import FLOAT32_LLAMAS

OURS, TORCH = "secateur", "torch.nn.utils.prune"
MODELS = ("resnet50", *FLOAT32_LLAMAS)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--memory", type=float, default=22, help="GiB a process may hold")
    options = parser.parse_args(arguments)
    where = machine(options.threads, ("torchvision", "transformers"))
    print(heading(where))
    results = [compare(model, options) for model in options.only or MODELS]
    text = fragment(where, results, options)
    if not options.only:
        limits = {"seconds": options.seconds, "memory_gb": options.memory, "runs": options.runs}
        everything = {"machine": where, "limits": limits, "results": results}
        write_results("global_magnitude", everything, text)
    print(text)


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let both take turns on one model."""
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], TORCH: []}
    failures: dict[str, dict[str, Any]] = {}
    for _ in range(options.runs):
        for tool, records in runs.items():
            if tool in failures:
                continue
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
                failures[tool] = {"failure": str(outcome.failure), **reached(outcome)}
                print(f"  {model}, {tool}: {failures[tool]} ({last})", flush=True)
                continue
            records.append(outcome.value)
            print(f"  {model}, {tool}: {outcome.value}", flush=True)
    result: dict[str, Any] = {"model": model}
    for tool, records in runs.items():
        if tool in failures:
            result[tool] = failures[tool]
        else:
            result[tool] = {
                key: statistics.median(record[key] for record in records) for key in records[0]
            }
    return result


def reached(outcome: Outcome) -> dict[str, Any]:
    """What a process that was ended had taken by then: less than it needs."""
    ended = time.time()
    for line in outcome.log.splitlines():
        if line.startswith('{"before_mb"'):
            begun = json.loads(line)
            return {
                "at_least": {
                    "seconds": ended - begun["begun"],
                    "extra_mb": outcome.peak_mb - begun["before_mb"],
                }
            }
    return {}


def fragment(
    where: dict[str, Any], results: list[dict[str, Any]], options: argparse.Namespace
) -> str:
    """Lay the page out."""
    columns = ["model", "million weights", "Secateur, s", "PyTorch, s", "ratio",
               "Secateur, extra MB", "PyTorch, extra MB", "ratio",
               "Secateur, left MB", "PyTorch, left MB"]  # fmt: skip
    finished = [result[TORCH] for result in results if "weights" in result[TORCH]]
    needed = max((each["extra_mb"] * 2**20 / each["weights"] for each in finished), default=None)
    rows = []
    for result in results:
        ours, theirs = result[OURS], result[TORCH]
        known = ours if "weights" in ours else theirs
        weights = f"{known['weights'] / 1e6:,.1f}" if "weights" in known else ""
        row = [result["model"], weights]
        for key, form in (("seconds", ".2f"), ("extra_mb", ",.0f")):
            row += [_cell(ours, key, form), _cell(theirs, key, form), _ratio(ours, theirs, key)]
        rows.append([*row, _cell(ours, "left_mb", ",.0f"), _cell(theirs, "left_mb", ",.0f")])
    return "\n".join([
        "# Global magnitude pruning",
        "",
        "The smallest 90 % of all weights of convolutions and linear layers set to zero by one "
        "ranking: `granularity=\"element\", criterion=\"magnitude\", allocation=\"global\"` "
        "against `torch.nn.utils.prune.global_unstructured` with `L1Unstructured`. Time is that "
        "of choosing and applying the masks, without the profile and the proof that "
        "`secateur.prune` adds. Extra memory is the peak above what the process held before; what "
        "is left is what it still holds of that afterwards.",
        "",
        markdown_table(columns, rows),
        "",
        f"Medians of {options.runs} runs, taking turns, in a process each, with "
        f"{options.memory:g} GiB and {options.seconds:g} seconds at most; ratios below 1 are in "
        "Secateur's favour. Where a process was ended at a limit, it says what it had taken by "
        "then, and the ratio is below the one given.",
        "",
        "Both can be undone, and both pay for it. Secateur keeps the old values of the entries "
        "that are zero, and two masks of a byte an entry: the one that holds the zeros, and the "
        "plan's. PyTorch keeps all old weights, a float mask and the masked weights. At its peak "
        "Secateur also holds the old weights, to put them back should anything fail; the ranking "
        "itself holds a run of scores at a time, and a byte an entry.",
        "",
        *(() if (longest := _longest(results)) is None else (longest, "")),
        "The embeddings of the Llamas count among their parameters and are not pruned. "
        "`llama_374m_float32` is `llama_1b_float32` with fewer layers and a smaller vocabulary, so "
        "that PyTorch's function fits into the memory"
        + ("." if needed is None else f": it took up to {needed:.0f} extra bytes for every weight "
           "that it ranked."),
        "",
        f"Measured on {heading(where)}. Made by `python -m benchmarks.global_magnitude`.",
    ])  # fmt: skip


def _longest(results: list[dict[str, Any]]) -> str | None:
    """What PyTorch takes for fewer weights than those it did not come to the end of."""
    both = [each for each in results if "weights" in each[OURS]]
    ended = [each for each in both if "at_least" in each[TORCH]]
    finished = [each for each in both if "weights" in each[TORCH]]
    if not ended or not finished:
        return None
    large = min(ended, key=lambda each: each[OURS]["weights"])
    small = max(finished, key=lambda each: each[TORCH]["weights"])
    share = small[TORCH]["weights"] / large[OURS]["weights"]
    ratio = large[OURS]["seconds"] / small[TORCH]["seconds"]
    return (
        f"`{small['model']}` has {share:.0%} of the weights of `{large['model']}`. PyTorch took "
        f"{small[TORCH]['seconds']:.1f} s for it, Secateur {large[OURS]['seconds']:.1f} s for the "
        f"larger: {ratio:.2f} of that."
    )


def _cell(record: dict[str, Any], key: str, form: str) -> str:
    if key in record:
        return format(record[key], form)
    if key in record.get("at_least", {}):
        return f"over {record['at_least'][key]:{form}} ({record['failure']})"
    return str(record["failure"])


def _ratio(ours: dict[str, Any], theirs: dict[str, Any], key: str) -> str:
    if key in ours and key in theirs:
        return f"{ours[key] / theirs[key]:.2f}"
    if key in ours and key in theirs.get("at_least", {}):
        return f"below {ours[key] / theirs['at_least'][key]:.2f}"
    return ""


if __name__ == "__main__":
    main()
