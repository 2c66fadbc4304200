"""Latency of skipping at half the mean MACs, for one image at a time, against the dense model.

A ResNet-18 with random weights, whose gates are scattered at random so that every image opens
something else: what is timed is choosing and computing, not accuracy. Calls are interleaved, each
with the next of several images, and medians are reported; the gates are in them.

    python -m benchmarks.dynamic_latency
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from benchmarks.common import DOCS, ROOT, heading, machine, markdown_table, write_results
from benchmarks.records import Record
from secateur.dynamic import Gated
from secateur.dynamic.cgnet import PartialSumGate
from secateur.models.resnet import SmallResNet
from secateur.profiling import interleave

NAME = "dynamic_latency"
METHODS = ("nested", "channel", "fbs", "aig", "cgnet")
SIZES = (112, 224)
IMAGES = 16
RATIO = 0.5
BATCH = 32


def resnet18() -> nn.Module:
    """He et al. 2016 (arXiv 1512.03385), table 1: 18 layers, for ImageNet; random weights."""
    torch.manual_seed(0)
    model = SmallResNet(widths=(64, 128, 256, 512), blocks=2, classes=1000, channels=3)
    model.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    # The largest of rectified values is the rectified largest one.
    model.bn1 = nn.Sequential(nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1))  # type: ignore[assignment]
    return model.eval()


def scattered(gated: Gated, images: Tensor) -> float:
    """Let gates open something else for every image, half of the MACs on average; what is left."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for gate in gated.gates:
            for name, each in gate.named_parameters():
                if each.ndim > 1 and "norm" not in name:
                    each.copy_(0.5 * torch.randn(each.shape, generator=generator))
    low, high, ratio = 0.01, 1.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        opened(gated, middle, images)
        ratio = gated.measure([images]).ratio
        low, high = (low, middle) if ratio > RATIO else (middle, high)
    return ratio


def opened(gated: Gated, density: float, images: Tensor) -> None:
    """Bring every gate to a density over the images: by its choice, its bias or its threshold."""
    gated.targets({"*": density})
    with torch.no_grad():
        for gate in gated.gates:
            if isinstance(gate, PartialSumGate):
                gate.normal.train()
                gate.normal.momentum = 1.0
                sums = result(gate.normal, gated.model, images)
                gate.normal.eval()
                gate.threshold.fill_(torch.quantile(sums.flatten()[::7], 1 - density))
            elif hasattr(gate, "squeeze"):
                bias = gate.squeeze.out.bias
                bias.zero_()
                logits = result(gate.squeeze, gated.model, images)
                bias.copy_(-torch.quantile(logits, 1 - density, dim=0))


def result(module: nn.Module, model: nn.Module, images: Tensor) -> Tensor:
    """What a module returns while the model runs."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda each, given, output: seen.append(output))
    model(images)
    handle.remove()
    return seen[0]


def one(method: str, size: int, runs: int) -> dict[str, Any]:
    """One row: dense, masked and skipping against each other, and what the gates cost."""
    dense = resnet18()
    images = torch.randn(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
    gated = sc.dynamic.gate(copy.deepcopy(dense), images[:1], method)
    ratio = scattered(gated, images)
    spread = gated.measure([images]).spread
    masked = copy.deepcopy(gated)
    gated.skip()
    with torch.no_grad():
        error = float((gated.model(images[:1]) - masked.model(images[:1])).abs().max())
        scale = float(masked.model(images[:1]).abs().max())
        timings = interleave(
            {name: call(model, images) for name, model in
             (("dense", dense), ("masked", masked.model), ("skipping", gated.model))},
            runs=runs, warmup=max(2, runs // 10), seconds=600.0,
        )  # fmt: skip
        many = images.repeat(BATCH // IMAGES, 1, 1, 1)
        batched = interleave(
            {name: call(model, many, BATCH) for name, model in
             (("dense", dense), ("skipping", gated.model))},
            runs=max(3, runs // 10), warmup=1, seconds=600.0,
        )  # fmt: skip
        cost = gate_share(masked, images)
    return {
        "method": method, "size": size, "macs": ratio, "spread": spread, "error": error / scale,
        "gate_macs": gated.costs.gates / gated.costs.dense, "gate_time": cost,
        **{f"{name}_ms": timing.median_ms for name, timing in timings.items()},
        **{f"{name}_p95_ms": quantile(timing.samples_ms, 0.95) for name, timing in timings.items()},
        **{f"{name}_images_per_s": 1000 * BATCH / timing.median_ms
           for name, timing in batched.items()},
        "rounds": timings["dense"].runs,
    }  # fmt: skip


def call(model: nn.Module, images: Tensor, count: int = 1) -> Callable[[], Any]:
    """A function that runs a model on the next images."""
    turns = itertools.cycle(images.split(count))
    return lambda: model(next(turns))


def quantile(samples: Iterable[float], at: float) -> float:
    """Of so many milliseconds."""
    return float(torch.quantile(torch.tensor(list(samples), dtype=torch.float64), at))


def gate_share(gated: Gated, images: Tensor) -> float:
    """Median over sites of the gate's time over that of the site's layers, all computed."""
    shares: dict[str, list[float]] = defaultdict(list)
    clock: dict[int, float] = {}
    begun: dict[int, float] = {}

    def start(module: nn.Module, args: Any) -> None:
        begun[id(module)] = time.perf_counter()

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        clock[id(module)] = time.perf_counter() - begun[id(module)]

    layers = [gated.attachment.layers(site) for site in gated.sites]
    watched = {id(each): each for each in (*gated.gates, *itertools.chain(*layers))}
    handles = [each.register_forward_pre_hook(start) for each in watched.values()]
    handles += [each.register_forward_hook(stop) for each in watched.values()]
    for image in images.split(1):
        gated.model(image)
        for gate, own in zip(gated.gates, layers, strict=True):
            taken = sum(clock[id(each)] for each in own) - clock[id(gate)]
            shares[gate.site_name].append(clock[id(gate)] / taken)
    for handle in handles:
        handle.remove()
    return median(median(each) for each in shares.values())


def page(head: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What was measured, in words and a table."""
    columns = [
        "method", "image", "MACs", "dense, ms", "masked, ms", "skipping, ms", "skipping / dense",
        "95 % of calls, skipping / dense", "throughput at 32, skipping / dense", "gate / layer",
    ]  # fmt: skip
    listed = [
        [
            row["method"], row["size"], f"{row['macs']:.2f}", f"{row['dense_ms']:.2f}",
            f"{row['masked_ms']:.2f}", f"{row['skipping_ms']:.2f}",
            f"{row['skipping_ms'] / row['dense_ms']:.2f}",
            f"{row['skipping_p95_ms'] / row['dense_p95_ms']:.2f}",
            f"{row['skipping_images_per_s'] / row['dense_images_per_s']:.2f}",
            f"{100 * row['gate_time']:.1f} %",
        ]
        for row in rows
    ]  # fmt: skip
    threads = head["machine"]["threads"]
    return "\n".join([
        "# Skipping at half the MACs", "", heading(head["machine"]), "",
        "A ResNet-18 with random weights and gates that open something else for each of "
        f"{IMAGES} images, half of the dense model's MACs on average, gates included; {threads} "
        f"thread(s), one image at a time, medians of {rows[0]['rounds']} interleaved rounds. Each "
        "layer computes what is open, or everything where that was measured to be faster.", "",
        markdown_table(columns, listed),
    ])  # fmt: skip


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=DOCS)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="few rounds, one size, no page")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(options.threads)
    runs = 9 if options.quick else options.runs
    head = {"machine": machine(options.threads), "settings": {"runs": runs, "ratio": RATIO}}
    print(heading(head["machine"]), flush=True)
    path = ROOT / "runs" / f"{NAME}{'_quick' if options.quick else ''}.jsonl"
    record: Record[tuple[str, int]] = Record(
        path, head, lambda row: (row["method"], row["size"]), options.resume and not options.quick
    )
    keys = [(method, size) for size in (SIZES[:1] if options.quick else SIZES)
            for method in options.methods]  # fmt: skip
    for key in keys:
        if key not in record.cells:
            record.add(one(*key, runs))
        row = record.cells[key]
        print({name: round(value, 3) if isinstance(value, float) else value
               for name, value in row.items()}, flush=True)  # fmt: skip
    if not options.quick:
        rows = [record.cells[key] for key in keys]
        write_results(NAME, {**head, "rows": rows}, page(head, rows), options.folder)


if __name__ == "__main__":
    main()
