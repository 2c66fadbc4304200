"""Time and extra memory of Wanda and SparseGPT on one large layer, against the papers' algorithms.

python -m benchmarks.layerwise_speed
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import heading, machine, markdown_table, run_limited, write_results
from benchmarks.nm_masks import peak_mb
from secateur.blockwise.methods import METHODS, Seen

SIZE = 4096
ROWS = 8192
BATCH = 2048
GOAL_MEMORY = 0.5


def tokens(size: int) -> list[Tensor]:
    """What the layer is given, batch by batch: features that go together."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(64, size, generator=generator)
    found = []
    for _ in range(ROWS // BATCH):
        common = torch.randn(BATCH, 64, generator=generator) @ mixing
        found.append(common / 8 + torch.randn(BATCH, size, generator=generator))
    return found


def ours(method: str) -> Callable[[Tensor, list[Tensor]], Tensor]:
    prune, products = METHODS[method]

    def run(weight: Tensor, given: list[Tensor]) -> Tensor:
        seen = Seen(weight.shape[1], products, weight.device)
        for rows in given:
            seen.add(rows)
        return prune(weight, seen, 0.5)[0]

    return run


def wanda_as_published(weight: Tensor, given: list[Tensor]) -> Tensor:
    """Score, sort every row, scatter."""
    scaler, count = torch.zeros(weight.shape[1]), 0
    for rows in given:
        x = rows.t()
        scaler *= count / (count + x.shape[1])
        count += x.shape[1]
        scaler += torch.norm(x, p=2, dim=1) ** 2 / count
    scores = torch.abs(weight) * torch.sqrt(scaler.reshape(1, -1))
    indices = torch.sort(scores, dim=-1, stable=True)[1][:, : weight.shape[1] // 2]
    mask = torch.zeros_like(scores) == 1
    mask.scatter_(1, indices, True)
    pruned = weight.clone()
    pruned[mask] = 0
    return pruned


def sparsegpt_as_published(weight: Tensor, given: list[Tensor]) -> Tensor:
    """Hessian, its inverse's Cholesky factor, blocks of 128 columns."""
    size, block = weight.shape[1], 128
    hessian, count = torch.zeros(size, size), 0
    for rows in given:
        x = rows.t()
        hessian *= count / (count + x.shape[1])
        count += x.shape[1]
        x = (2 / count) ** 0.5 * x.float()
        hessian += x.matmul(x.t())
    pruned = weight.clone().float()
    dead = torch.diag(hessian) == 0
    hessian[dead, dead] = 1
    pruned[:, dead] = 0
    damp = 0.01 * torch.mean(torch.diag(hessian))
    diagonal = torch.arange(size)
    hessian[diagonal, diagonal] += damp
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    for start in range(0, size, block):
        stop = min(start + block, size)
        columns = pruned[:, start:stop].clone()
        kept = torch.zeros_like(columns)
        errors = torch.zeros_like(columns)
        small = factor[start:stop, start:stop]
        scores = columns**2 / torch.diag(small).reshape(1, -1) ** 2
        threshold = torch.sort(scores.flatten())[0][scores.numel() // 2 - 1]
        mask = scores <= threshold
        for at in range(stop - start):
            w, d = columns[:, at], small[at, at]
            q = w.clone()
            q[mask[:, at]] = 0
            kept[:, at] = q
            error = (w - q) / d
            columns[:, at:] -= error.unsqueeze(1).matmul(small[at, at:].unsqueeze(0))
            errors[:, at] = error
        pruned[:, start:stop] = kept
        pruned[:, stop:] -= errors.matmul(factor[start:stop, stop:])
    return pruned


WAYS: dict[str, Callable[[Tensor, list[Tensor]], Tensor]] = {
    "wanda, secateur": ours("wanda"),
    "wanda, as published": wanda_as_published,
    "sparsegpt, secateur": ours("sparsegpt"),
    "sparsegpt, as published": sparsegpt_as_published,
}


def one(way: str, size: int, out: str) -> None:
    """What pruning one layer adds to the peak, in a process of its own."""
    WAYS[way](torch.randn(64, 64), [torch.randn(256, 64)])
    weight, given = torch.randn(size, size), tokens(size)
    # Making the tokens took more for a moment than they take: the peak begins anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mb()
    WAYS[way](weight, given)
    Path(out).write_text(json.dumps({"added_mb": peak_mb() - before}))


def missed(weight: Tensor, pruned: Tensor, given: list[Tensor]) -> float:
    """Share of the layer's output energy that is lost."""
    lost = sum(float((rows @ (weight - pruned).T).square().sum()) for rows in given)
    return lost / sum(float((rows @ weight.T).square().sum()) for rows in given)


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] in WAYS:
        one(sys.argv[1], int(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--no-page", action="store_true", help="leave docs/ as it is")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where = machine(options.threads)
    weight = torch.randn(options.size, options.size, generator=torch.Generator().manual_seed(0))
    given = tokens(options.size)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    losses = {}
    for _ in range(options.runs):
        for way, function in WAYS.items():
            start = time.perf_counter()
            pruned = function(weight, given)
            times[way].append(time.perf_counter() - start)
            if way not in losses:
                losses[way] = missed(weight, pruned, given)
    seconds = {way: statistics.median(taken) for way, taken in times.items()}
    added = {}
    for way in WAYS:
        outcome = run_limited(
            "benchmarks.layerwise_speed",
            [way, str(options.size)],
            seconds=600,
            memory_gb=8,
            threads=options.threads,
        )
        if outcome.value is None:
            raise SystemExit(f"{way}: {outcome.failure}\n{outcome.log}")
        added[way] = outcome.value["added_mb"]
    rows = [[way, f"{seconds[way]:.2f}", f"{added[way]:.0f}", f"{losses[way]:.4f}"] for way in WAYS]
    ratios = {
        name: {
            "time": seconds[f"{name}, secateur"] / seconds[f"{name}, as published"],
            "memory": added[f"{name}, secateur"] / max(added[f"{name}, as published"], 1),
        }
        for name in ("wanda", "sparsegpt")
    }
    rows += [[f"{name}, ratio", f"{each['time']:.2f}", f"{each['memory']:.2f}", ""]
             for name, each in ratios.items()]  # fmt: skip
    size = f"{options.size}×{options.size}"
    text = "\n".join(
        [
            "# Wanda and SparseGPT on one layer",
            "",
            f"Half of a float32 weight of {size} to zero, from {ROWS} tokens in batches of "
            f"{BATCH}, sums over the tokens included. *As published* is the papers' algorithm "
            "written down plainly in the benchmark.",
            "",
            markdown_table(["way", "seconds", "MiB added to the peak", "output lost"], rows),
            "",
            f"Medians of {options.runs} runs, taking turns; memory in a process each, beyond "
            f"weight and tokens. {heading(where)}. Made by `python -m benchmarks.layerwise_speed`.",
        ]
    )
    results = {"machine": where, "seconds": seconds, "added_mb": added, "losses": losses,
               "ratios": ratios}  # fmt: skip
    if not options.no_page:
        write_results("layerwise_speed", results, text)
    print(text)
    for name, each in ratios.items():
        met = each["time"] <= 1 and each["memory"] <= GOAL_MEMORY
        print(f"{name}: time at most 1, memory at most {GOAL_MEMORY}: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
