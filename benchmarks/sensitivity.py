"""What a sensitivity scan saves that starts every copy where it differs, against whole passes.

Two families of growing depth: a chain of equal convolutions, where (L + 1) / 2 of the L layers
remain on average, and ResNets with the basic block. Both scans take the same copies of the same
model and must find the same values, bit for bit.

    python -m benchmarks.sensitivity
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from benchmarks.common import heading, machine, markdown_table, write_results
from secateur.models.resnet import SmallResNet

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
EXAMPLES, BATCH, WIDTH, SIZE = 64, 32, 32, 16


def chain(layers: int) -> nn.Module:
    """Equal convolutions, one after the other."""
    first = [nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU()]
    rest = [nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()) for _ in range(layers)]
    return nn.Sequential(*first, *rest, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))


def resnet(blocks: int) -> nn.Module:
    """Three stages of so many basic blocks."""
    return SmallResNet(channels=3, blocks=blocks)


FAMILIES: dict[str, tuple[str, Callable[[int], nn.Module], tuple[int, ...]]] = {
    "chain": ("Chains of equal convolutions", chain, (4, 8, 16, 32)),
    "resnet": ("ResNets of three stages, blocks a stage", resnet, (1, 3)),
}


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time: what else the machine does must not count."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def closeness(output: Tensor, targets: Tensor) -> float:
    return -float((output - targets).square().mean())


def measure(family: str, size: int, runs: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = FAMILIES[family][1](size).eval()
    images = torch.randn(EXAMPLES, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted = torch.cat([model(part) for part in images.split(BATCH)])
    held_out = sc.Evaluation(
        list(zip(images.split(BATCH), wanted.split(BATCH), strict=True)), closeness
    )

    def scan(evaluate: Callable[[nn.Module], float]) -> sc.Sensitivity:
        return sc.sensitivity(model, images[:1], evaluate, ratios=RATIOS)

    # Planning and copying take the same time in both; a measure that runs nothing shows it.
    kinds: dict[str, Callable[[nn.Module], float]] = {
        "planning": lambda candidate: 0.0,
        "naive": lambda candidate: held_out(candidate),
        "reused": held_out,
    }
    seconds, tables = {}, {}
    for _ in range(runs):
        # In turns, and the best of each, since other work on the machine slows both.
        for kind, evaluate in kinds.items():
            taken, tables[kind] = seconds_of(functools.partial(scan, evaluate))
            seconds[kind] = min(taken, seconds.get(kind, taken))
    found = tables["reused"]
    if found != tables["naive"]:
        raise SystemExit(f"{family} {size}: the values differ")
    return {
        "size": size,
        "groups": len(found),
        "trials": sum(len(curve.values) for curve in found),
        **seconds,
    }


def ratios_of(record: dict[str, Any]) -> tuple[float, float]:
    """Of the whole scan, and of what it runs."""
    whole = record["reused"] / record["naive"]
    return whole, (record["reused"] - record["planning"]) / (record["naive"] - record["planning"])


def fragment(where: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> str:
    parts = [
        "# Sensitivity scans",
        "",
        f"`sc.sensitivity` at {len(RATIOS)} shares of every group, on {EXAMPLES} images of "
        f"{SIZE} × {SIZE} pixels: every copy run as a whole (`evaluate=lambda model: f(model)`), "
        "and from where it first differs from the dense model (`evaluate=sc.Evaluation(...)`). "
        "Processor time, one thread. Both find the same values, bit for bit; planning and copying "
        "are the same work in both, so the ratio is given with and without them. Of a chain of "
        "equal layers half is left on average; where early layers cost more, less.",
        "",
    ]
    for family, records in results.items():
        rows = []
        for record in records:
            whole, running = ratios_of(record)
            rows.append(
                [
                    record["size"],
                    record["groups"],
                    record["trials"],
                    f"{record['planning']:.1f}",
                    f"{record['naive']:.1f}",
                    f"{record['reused']:.1f}",
                    f"{whole:.2f}",
                    f"**{running:.2f}**",
                ]
            )
        columns = ["", "groups", "trials", "planning, s", "whole passes, s", "from the middle, s",
                   "ratio", "ratio without planning"]  # fmt: skip
        parts += [f"## {FAMILIES[family][0]}", "", markdown_table(columns, rows), ""]
    parts.append(f"Measured on {heading(where)}. Made by `python -m benchmarks.sensitivity`.")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=[*FAMILIES], action="append")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = machine(1)
    print(heading(where))
    results: dict[str, list[dict[str, Any]]] = {}
    for family in options.family or FAMILIES:
        measure(family, FAMILIES[family][2][0], 1)  # warm-up
        results[family] = []
        for size in FAMILIES[family][2]:
            results[family].append(measure(family, size, options.runs))
            whole, running = ratios_of(results[family][-1])
            print(f"{family} {size}: {whole:.2f}, without planning {running:.2f}", flush=True)
    text = fragment(where, results)
    write_results("sensitivity", {"machine": where, "results": results}, text)
    print()
    print(text)


if __name__ == "__main__":
    main()
