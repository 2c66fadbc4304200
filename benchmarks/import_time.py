"""How long importing Secateur takes beyond importing PyTorch.

python -m benchmarks.import_time
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from benchmarks.common import ROOT, heading, machine, markdown_table, write_results

GOAL = 0.2
CODE = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import secateur
end = time.perf_counter()
secateur.prune
print(middle - start, end - middle, time.perf_counter() - end)
"""


def measure(runs: int) -> list[tuple[float, ...]]:
    """Import in fresh processes; the first only warms the file cache."""
    times = []
    for _ in range(runs + 1):
        out = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=ROOT
        )
        times.append(tuple(float(part) for part in out.stdout.split()))
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    where = machine(1)
    medians = [statistics.median(column) for column in zip(*measure(options.runs), strict=True)]
    names = ["import torch", "import secateur, after torch", "first use of secateur.prune"]
    rows = [[name, f"{seconds:.3f}"] for name, seconds in zip(names, medians, strict=True)]
    text = "\n".join(
        [
            "# Import time",
            "",
            markdown_table(["step", "seconds"], rows),
            "",
            f"Medians of {options.runs} fresh processes on {heading(where)}. "
            "Made by `python -m benchmarks.import_time`.",
        ]
    )
    results = dict(zip(names, medians, strict=True))
    write_results("import_time", {"machine": where, "seconds": results}, text)
    print(text)
    met = "met" if medians[1] <= GOAL else "MISSED"
    print(f"\n{medians[1]:.3f} s beyond torch, goal {GOAL} s: {met}")


if __name__ == "__main__":
    main()
