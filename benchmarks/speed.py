"""Time and memory of pruning against Torch-Pruning, in one interleaved run.

Every measurement is a process of its own; the tools take turns, so that a machine that slows
down slows both. Compared are medians of graph + plan + surgery: ``sc.prune(verify=False)``
against Torch-Pruning's constructor and one step. What verification adds is timed apart.
Torch-Pruning removes half the channels of each group (its way to say how much); Secateur gets
the share of the MACs that this left as its budget, so that both remove alike.

    python -m benchmarks.speed                          # about ten minutes on a quiet machine
    python -m benchmarks.speed --only resnet50 --runs 5
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.common import Outcome, heading, machine, markdown_table, run_limited, write_results
from benchmarks.speed_models import MODELS

OURS, RIVAL = "secateur", "torch-pruning"
VERIFIED = "secateur, verified"
# Goals: ratio to Torch-Pruning's time.
GOALS = {"densenet121": 1 / 3, "llama_1b": 1 / 3}
MEAN_GOAL = 1 / 2

LIMITS = """\
What bounds the peak: until everything has been done, the dense weights are held beside the new
ones, so that an error at any moment puts the model back bit for bit. The more of a model stays
(vit_b_16 keeps two thirds of its MACs here), the more that is. Cutting weights block by block, one
working memory for all scores, and rescaling in single precision brought it down to what it is.
What bounds the time: each weight is read once to count zeros and look for NaN, once for its score
and once to be cut; products and convolutions of the two recorded passes are not computed."""


def measure(tool: str, model: str, budget: float, options: argparse.Namespace) -> Outcome:
    """Run one tool once on one model in a fresh process."""
    request = {
        "tool": RIVAL if tool == RIVAL else OURS,
        "model": model,
        "budget": budget,
        "allocation": options.allocation,
        "verify": tool == VERIFIED,
    }
    return run_limited(
        "benchmarks.speed_one",
        [json.dumps(request)],
        seconds=options.seconds,
        memory_gb=options.memory,
        threads=options.threads,
    )


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let the tools take turns on one model."""
    budget = options.budget
    runs: dict[str, list[dict[str, Any]]] = {RIVAL: [], OURS: [], VERIFIED: []}
    failures: dict[str, str] = {}
    for turn in range(options.runs):
        for tool, records in runs.items():
            if tool in failures:
                continue
            outcome = measure(tool, model, budget, options)
            if outcome.value is None:
                failures[tool] = outcome.failure or "failed"
                last = (outcome.log.strip().splitlines() or [""])[-1]
                print(f"  {tool}: {outcome.failure} after {outcome.seconds:.0f} s ({last})")
                continue
            records.append(outcome.value)
            if tool == RIVAL and turn == 0 and outcome.value.get("ratio"):
                budget = round(outcome.value["ratio"], 3)
            print(
                f"  {tool}: {outcome.value['seconds']:.2f} s, {outcome.value['peak_mb']:.0f} MB",
                flush=True,
            )
    result: dict[str, Any] = {"model": model, "budget": budget, "failures": failures}
    for tool, records in runs.items():
        if records:
            result[tool] = {
                key: statistics.median(record[key] for record in records)
                for key in ("seconds", "peak_mb", "before_mb", "weights_mb", "forward")
            } | {
                "runs": [round(record["seconds"], 3) for record in records],
                "ratio": records[0].get("ratio"),
                "broken": records[0].get("broken"),
            }
    return result


def ratio(result: dict[str, Any], key: str) -> float | None:
    """Ours over the rival's; None where one of them has no number."""
    if OURS not in result or RIVAL not in result:
        return None
    return result[OURS][key] / result[RIVAL][key]


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def row(result: dict[str, Any], limit: float) -> list[Any]:
    """One line of the table."""

    def number(tool: str, key: str, digits: int) -> str:
        if tool in result:
            return f"{result[tool][key]:,.{digits}f}"
        failure = result["failures"].get(tool, "not run")
        return f"over {limit:.0f}" if failure == "time limit" else failure

    verifying = ""
    if VERIFIED in result and OURS in result:
        verifying = f"{max(result[VERIFIED]['seconds'] - result[OURS]['seconds'], 0):.2f}"
    time, memory = ratio(result, "seconds"), ratio(result, "peak_mb")
    return [
        result["model"],
        number(OURS, "seconds", 2),
        number(RIVAL, "seconds", 2),
        f"{time:.2f}" if time else "",
        verifying,
        number(OURS, "peak_mb", 0),
        number(RIVAL, "peak_mb", 0),
        f"{memory:.2f}" if memory else "",
    ]


def fragment(where: dict[str, Any], results: list[dict[str, Any]], limit: float) -> str:
    """Lay the page out."""
    columns = [
        "model",
        "Secateur, s",
        "Torch-Pruning, s",
        "ratio",
        "verification, s",
        "Secateur, peak MB",
        "Torch-Pruning, peak MB",
        "ratio",
    ]
    parts = [
        "# Speed and memory",
        "",
        "Graph, plan and surgery, medians over interleaved processes; ratios below 1 are in "
        "Secateur's favour. Peak memory is the whole process's, model and PyTorch included.",
        "",
        markdown_table(columns, [row(result, limit) for result in results]),
        "",
    ]
    times = [value for value in (ratio(result, "seconds") for result in results) if value]
    if times:
        parts += [f"Geometric mean of the time ratios: **{geometric_mean(times):.2f}**.", ""]
    broken = [r for r in results if r.get(RIVAL, {}).get("broken")]
    for result in broken:
        parts += [
            f"After Torch-Pruning, {result['model']} no longer runs: {result[RIVAL]['broken']}.",
            "",
        ]
    parts += [LIMITS, "", f"Measured on {heading(where)}. Made by `make bench`."]
    return "\n".join(parts)


def verdicts(results: list[dict[str, Any]]) -> list[str]:
    """Say which goals are met."""
    lines = []
    for result in results:
        time, memory = ratio(result, "seconds"), ratio(result, "peak_mb")
        if time is None or memory is None:
            continue
        goal = GOALS.get(result["model"], 1.0)
        met = "met" if time <= goal else "MISSED"
        lines.append(f"{result['model']}: time {time:.2f} (goal {goal:.2f}): {met}")
        if memory > 1:
            lines.append(f"{result['model']}: memory {memory:.2f} (goal 1.00): MISSED")
    times = [value for value in (ratio(result, "seconds") for result in results) if value]
    if times:
        mean = geometric_mean(times)
        met = "met" if mean <= MEAN_GOAL else "MISSED"
        lines.append(f"geometric mean {mean:.2f} (goal {MEAN_GOAL:.2f}): {met}")
    return lines


def parse(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--runs", type=int, default=3, help="turns of every tool")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=180, help="time limit of one process")
    parser.add_argument("--memory", type=float, default=16, help="memory limit, in GiB")
    parser.add_argument("--budget", type=float, default=0.5, help="where Torch-Pruning gives none")
    parser.add_argument("--allocation", default="uniform")
    return parser.parse_args(arguments)


def main(arguments: Iterable[str] | None = None) -> None:
    options = parse(arguments)
    where = machine(options.threads, ("torch-pruning", "torchvision", "transformers"))
    print(heading(where))
    results = []
    for model in options.only or MODELS:
        print(model, flush=True)
        results.append(compare(model, options))
        if not options.only:
            text = fragment(where, results, options.seconds)
            write_results("speed", {"machine": where, "results": results}, text)
    print()
    print(fragment(where, results, options.seconds))
    print()
    print("\n".join(verdicts(results)))


if __name__ == "__main__":
    main()
