"""Speed and peak memory of 2:4 masks, against comparing all patterns.

python -m benchmarks.nm_masks
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import heading, machine, markdown_table, run_limited, write_results
from secateur.sparsity import nm_mask

SHAPE = (4096, 11008)
KEEP, OF = 2, 4
GOAL_MEMORY = 0.25


def ours(weight: Tensor) -> Tensor:
    return nm_mask(weight, KEEP, OF, magnitude=True)


def all_patterns(weight: Tensor) -> Tensor:
    """Multiply absolute values by every pattern, and take the highest."""
    # The last ones first: of equal sums the first wins, and low indices are to go.
    kept = list(itertools.combinations(range(OF), KEEP))[::-1]
    patterns = torch.tensor([[float(at in chosen) for at in range(OF)] for chosen in kept])
    best = (weight.abs().reshape(-1, OF) @ patterns.T).argmax(dim=1)
    return patterns.bool()[best].reshape(weight.shape)


WAYS: dict[str, Callable[[Tensor], Tensor]] = {"secateur": ours, "all patterns": all_patterns}


def peak_mb() -> float:
    """The highest resident memory so far; `ru_maxrss` would start from the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(way: str, out: str) -> None:
    """What making one mask adds to the peak, in a process of its own."""
    torch.manual_seed(0)
    WAYS[way](torch.randn(8, 8))
    weight = torch.randn(SHAPE)
    before = peak_mb()
    WAYS[way](weight)
    Path(out).write_text(json.dumps({"added_mb": peak_mb() - before}))


def measure(runs: int) -> dict[str, float]:
    """Median seconds, the ways taking turns; the first round only warms up."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    masks = {way: function(weight) for way, function in WAYS.items()}
    # Sums of two round, so nearly equal entries may be told apart by one way only.
    differing = (masks["secateur"] != masks["all patterns"]).float().mean()
    assert differing < 1e-6, f"the masks differ in {differing:.2g} of the entries"
    masks.clear()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way, function in WAYS.items():
            start = time.perf_counter()
            function(weight)
            times[way].append(time.perf_counter() - start)
    return {way: statistics.median(taken) for way, taken in times.items()}


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in WAYS:
        one(sys.argv[1], sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where = machine(options.threads)
    seconds = measure(options.runs)
    added = {}
    for way in WAYS:
        outcome = run_limited(
            "benchmarks.nm_masks", [way], seconds=120, memory_gb=4, threads=options.threads
        )
        if outcome.value is None:
            raise SystemExit(f"{way}: {outcome.failure}\n{outcome.log}")
        added[way] = outcome.value["added_mb"]
    rows = [[way, f"{seconds[way]:.3f}", f"{added[way]:.0f}"] for way in WAYS]
    ratios = {
        "time": seconds["secateur"] / seconds["all patterns"],
        "memory": added["secateur"] / added["all patterns"],
    }
    rows.append(["ratio", f"{ratios['time']:.2f}", f"{ratios['memory']:.2f}"])
    size = "×".join(map(str, SHAPE))
    text = "\n".join(
        [
            f"# {KEEP}:{OF} masks",
            "",
            f"A mask for a float32 weight of {size}. *All patterns* multiplies the absolute values "
            "by every pattern and takes the highest.",
            "",
            markdown_table(["way", "seconds", "MiB added to the peak"], rows),
            "",
            f"Medians of {options.runs} runs, taking turns; memory in a process each, beyond the "
            f"weight itself. {heading(where)}. Made by `python -m benchmarks.nm_masks`.",
        ]
    )
    results = {"machine": where, "seconds": seconds, "added_mb": added, "ratios": ratios}
    write_results("nm_masks", results, text)
    print(text)
    met = ratios["time"] <= 1 and ratios["memory"] <= GOAL_MEMORY
    print(f"\ntime at most 1, memory at most {GOAL_MEMORY}: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
