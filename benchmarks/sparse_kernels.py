"""The sparse kernels against the best dense layer of torch, layer by layer.

python -m benchmarks.sparse_kernels
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.common import heading, machine, markdown_table, write_results
from benchmarks.limits import Limits, measure_limits
from secateur.profiling.latency import interleave
from secateur.sparse import SparseConv2d, SparseLinear, variant
from secateur.sparse.candidates import TorchCsr
from secateur.sparse.dense import Prepacked, can_prepack

LINEAR = [
    (inputs, outputs, tokens)
    for inputs, outputs in ((768, 3072), (3072, 768))
    for tokens in (1, 16, 197, 512)
]
# channels, outputs, kernel, size
CONVOLUTIONS = [(512, 512, 1, 14), (320, 1280, 1, 7), (64, 64, 3, 56), (256, 256, 3, 14)]
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
HEIGHTS = (1, 4, 8, 16)
COLD_BYTES, MANY_POSITIONS = 64 << 20, 64

# kind, least positions, heights, sparsity, ratio: what the kernels are to reach with two threads.
GOALS = [
    ("linear at 197 and 512 tokens", (1,), 0.9, 3.5),
    ("linear at 1 token", (1,), 0.9, 4.0),
    ("linear at 197 and 512 tokens", (8, 16), 0.9, 6.0),
    ("linear at 1 token", (8, 16), 0.9, 10.0),
    ("conv 1×1 512→512@14²", (1,), 0.9, 2.4),
    ("conv 1×1 512→512@14²", (8,), 0.9, 7.0),
    ("conv 3×3 256→256@14²", (1,), 0.9, 2.2),
    ("conv 3×3 256→256@14²", (4, 8, 16), 0.9, 4.0),
]


def zeroed(layer: nn.Module, height: int, sparsity: float) -> nn.Module:
    """A copy with this many zeros, in vectors of so many outputs."""
    made = copy.deepcopy(layer)
    weight = made.weight.data.flatten(1)
    live = torch.rand(-(-len(weight) // height), weight.shape[1]) >= sparsity
    weight.mul_(live.repeat_interleave(height, 0)[: len(weight)])
    return made


def turns(make: Callable[[], nn.Module], copies: int, x: torch.Tensor) -> Callable[[], Any]:
    modules = itertools.cycle([make() for _ in range(copies)])
    return lambda: next(modules)(x)


def ways(layer: nn.Module, sparsity: float, x: torch.Tensor, copies: int) -> dict[str, Any]:
    """Every way to run the layer, by name; dense ones first."""
    sparse = SparseLinear if isinstance(layer, nn.Linear) else SparseConv2d
    found = {"dense": turns(lambda: copy.deepcopy(layer), copies, x)}
    if isinstance(layer, nn.Conv2d):
        last = x.to(memory_format=torch.channels_last)
        found["dense, channels last"] = turns(
            lambda: copy.deepcopy(layer).to(memory_format=torch.channels_last), copies, last
        )
    if can_prepack():
        found["dense, prepacked"] = turns(lambda: Prepacked(copy.deepcopy(layer)), copies, x)
    found["torch CSR"] = turns(lambda: TorchCsr(zeroed(layer, 1, sparsity)), copies, x)
    for height in HEIGHTS:
        found[f"{height}×1"] = turns(
            lambda height=height: sparse.from_dense(zeroed(layer, height, sparsity), height),
            copies,
            x,
        )
    return found


def measure(
    layer: nn.Module, x: torch.Tensor, sparsity: float, limits: Limits, options: Any
) -> dict[str, Any]:
    """Ratios to the best dense way, and what part of the limits the kernels reach."""
    with torch.no_grad():
        y = layer(x)
        positions = y.numel() // (y.shape[-1] if isinstance(layer, nn.Linear) else y.shape[1])
        size = layer.weight.numel() * 4
        copies = max(1, min(COLD_BYTES // size, 8)) if positions < MANY_POSITIONS else 1
        timed = interleave(
            ways(layer, sparsity, x, copies), warmup=2 * copies, runs=options.runs,
            seconds=options.seconds,
        )  # fmt: skip
    dense = min(
        (timing for name, timing in timed.items() if name.startswith("dense")),
        key=lambda timing: timing.median_ms,
    )
    stored = (1 - sparsity) * layer.weight.numel()
    found: dict[str, Any] = {"best dense": dense.name, "dense_ms": dense.median_ms}
    for name, timing in timed.items():
        height = int(name.removesuffix("×1")) if name.endswith("×1") else 0
        moved = stored * (4 + 2 / height) + 4 * (x.numel() + y.numel()) if height else 0
        found[name] = {
            "ms": timing.median_ms,
            "ratio": dense.ratio(timing),
            "of_limit": limits.fraction(timing.median_ms / 1e3, 2 * stored * positions, moved)
            if height
            else None,
        }
    return found


def layers(only: str) -> list[tuple[str, nn.Module, torch.Tensor]]:
    made: list[tuple[str, nn.Module, torch.Tensor]] = []
    for inputs, outputs, tokens in LINEAR:
        name = f"linear {inputs}→{outputs}, {tokens} token{'s' if tokens > 1 else ''}"
        made.append((name, nn.Linear(inputs, outputs), torch.randn(tokens, inputs)))
    for channels, outputs, kernel, size in CONVOLUTIONS:
        name = f"conv {kernel}×{kernel} {channels}→{outputs}@{size}²"
        layer = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)
        made.append((name, layer, torch.randn(1, channels, size, size)))
    return [(name, layer.eval(), x) for name, layer, x in made if only in name]


def break_even(results: dict[str, dict[str, Any]], way: str) -> str:
    """The lowest sparsity measured from which on the way is never slower than dense."""
    lowest = ""
    for sparsity in sorted(results, key=float, reverse=True):
        if results[sparsity][way]["ratio"] < 1:
            break
        lowest = f"{float(sparsity):.0%}"
    return lowest or "never"


def verdicts(results: dict[str, dict[str, Any]]) -> list[tuple[str, bool]]:
    found = []
    for what, heights, sparsity, goal in GOALS:
        names = [name for name in results if belongs(name, what)]
        ratios = {
            name: max(results[name][str(sparsity)][f"{h}×1"]["ratio"] for h in heights)
            for name in names
            if str(sparsity) in results[name]
        }
        if ratios:
            worst = min(ratios, key=lambda name: ratios[name])
            kind = "single weights" if heights == (1,) else f"vectors of {heights}"
            text = f"{what}, {sparsity:.0%}, {kind}: {ratios[worst]:.2f} of {goal} ({worst})"
            found.append((text, ratios[worst] >= goal))
    return found


def belongs(name: str, what: str) -> bool:
    if what.startswith("conv"):
        return name == what
    tokens = name.split(", ")[-1].split()[0]
    return name.startswith("linear") and tokens in what.replace("and", " ").split()


def page(results: dict[str, Any], where: dict[str, Any], limits: Limits, runs: int) -> str:
    rows = []
    for name, by_sparsity in results.items():
        for sparsity, found in by_sparsity.items():
            cells = [
                name,
                f"{float(sparsity):.0%}",
                found["best dense"],
                f"{found['dense_ms']:.3f}",
            ]
            cells.append(f"{found['torch CSR']['ratio']:.2f}")
            for height in HEIGHTS:
                one = found[f"{height}×1"]
                cells.append(f"{one['ratio']:.2f} ({one['of_limit']:.0%})")
            rows.append(cells)
    columns = ["layer", "zeros", "best dense", "ms", "torch CSR", *(f"{h}×1" for h in HEIGHTS)]
    even = [
        [name, *(break_even(by_sparsity, f"{height}×1") for height in HEIGHTS)]
        for name, by_sparsity in results.items()
    ]
    return "\n".join(
        [
            "# Sparse kernels",
            "",
            "How many times as fast as the fastest dense layer of torch (as it is, channels last, "
            "prepacked by oneDNN) in the same run; in brackets the part of the machine's limit "
            "that is reached: operations over peak, or bytes over bandwidth, whichever is more. "
            "float32.",
            "",
            markdown_table(columns, rows, left=3),
            "",
            "From which sparsity on each is at least as fast as dense:",
            "",
            markdown_table(["layer", *(f"{h}×1" for h in HEIGHTS)], even),
            "",
            f"Medians of {runs} rounds, the ways taking turns; at few tokens, copies of the weight "
            "take turns too, as many as no cache holds. "
            f"Limits: {limits.flops / 1e9:.0f} GFLOP/s, {limits.bandwidth / 1e9:.0f} GB/s. "
            f"Kernels for {variant()}. {heading(where)}. Made by "
            "`python -m benchmarks.sparse_kernels`.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15, help="rounds a layer and sparsity")
    parser.add_argument("--seconds", type=float, default=6.0, help="limit on those")
    parser.add_argument("--only", default="", help="layers with this in their name")
    parser.add_argument("--sparsities", type=float, nargs="+", default=list(SPARSITIES))
    parser.add_argument("--dry", action="store_true", help="print, and leave the page alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    where, limits = machine(options.threads), measure_limits(options.threads)
    print(heading(where))
    results: dict[str, Any] = {}
    for name, layer, x in layers(options.only):
        results[name] = {
            str(sparsity): measure(layer, x, sparsity, limits, options)
            for sparsity in options.sparsities
        }
        print(name, flush=True)
    text = page(results, where, limits, options.runs)
    print(text)
    for line, met in verdicts(results):
        print(f"{'met   ' if met else 'MISSED'} {line}")
    if not options.dry:
        write_results("sparse_kernels", {"machine": where, "results": results}, text)


if __name__ == "__main__":
    main()
