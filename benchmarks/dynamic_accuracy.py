"""Accuracy against mean MACs: static pruning and every dynamic method, after the same training.

A shared CIFAR-10 ResNet is pruned, or gated, to 0.7, 0.5 and 0.35 of its multiply-accumulates, and
trained for as many passes over the same images. Gates come to a density that leaves the model at
the target: what they cannot decide about is counted in, and so are they. Cells are on record as
soon as they are measured, so a run that was ended goes on where it stopped.

    python -m benchmarks.dynamic_accuracy
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur as sc
from benchmarks.cifar_resnet import Augmented, Images, load_images, load_resnet
from benchmarks.common import DOCS, ROOT, heading, machine, markdown_table, write_results
from benchmarks.records import Record
from secateur.dynamic import Gate
from secateur.dynamic.fbs import SaliencyGate

NAME = "dynamic_accuracy"
STATIC = "static"
METHODS = (
    STATIC, "channel:target=macs", "nested:target=macs", "fbs", "sparse_gates:target=macs", "cgnet",
    "aig:target=macs", "skipnet",
)  # fmt: skip
TARGETS = (0.7, 0.5, 0.35)
SEEDS = (0, 1)
# Density of gates that leaves nothing of what they decide about is not to be asked for.
LEAST = 0.05

Key = tuple[str, float, int]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a cell is measured with.

    Attributes
    ----------
    model, data : str
        Names of the shared weights and images.
    train, test, epochs : int
        Images to train on, so many times, and images of the other split to count right answers on.
    """

    model: str = "resnet20-cifar10-jpeg"
    data: str = "cifar10-jpeg"
    train: int = 20_000
    test: int = 5000
    epochs: int = 6
    batch: int = 64
    lr: float = 0.02
    gate_lr: float = 0.05


def cell(setting: Setting, key: Key, train: Images, test: Images) -> dict[str, Any]:
    """Prune or gate, train, and count."""
    method, target, seed = key
    model = load_resnet(setting.model)
    example = torch.zeros(1, 3, 32, 32)
    batches = Augmented(train, setting.batch, seed)
    started = time.perf_counter()
    if method == STATIC:
        before = sc.profile(model, example).macs
        sc.prune(model, example, allocation="uniform", budget={"macs": target}, seed=seed)
        sc.recover(model, batches, epochs=setting.epochs, lr=setting.lr, seed=seed)
        found = {"macs": sc.profile(model, example).macs / before, "spread": 0.0}
        took = time.perf_counter() - started
        return {**found, "accuracy": accuracy(model, test), "seconds": took}
    gated = sc.dynamic.gate(model, example, method, 1.0, streams=True, seed=seed)
    density = wanted(gated, target)
    if density is None:
        return {"reason": f"gates decide about too little to leave {target:g} of the MACs"}
    gated.density = density
    sc.dynamic.train(
        gated, batches, epochs=setting.epochs, lr=setting.lr, gate_lr=setting.gate_lr, seed=seed
    )
    measured = gated.measure(test.batches(250))
    return {
        "macs": measured.ratio, "spread": measured.spread, "density": density,
        "accuracy": accuracy(model, test), "seconds": time.perf_counter() - started,
    }  # fmt: skip


def wanted(gated: sc.dynamic.Gated, target: float) -> float | None:
    """The density at which every gate alike leaves the target; None where none does."""
    low, high = LEAST, 1.0
    gates = gated.gates

    def cost(density: float) -> float:
        opened = [torch.full((1, gate.units), share(gate, density)) for gate in gates]
        return float(gated.costs.of(opened)) / gated.costs.dense

    if cost(low) > target:
        return None
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) > target else (middle, high)
    return low


def share(gate: Gate, density: float) -> float:
    """What a gate leaves open at a density, where it opens a whole number of units."""
    if isinstance(gate, SaliencyGate):
        return max(1, math.ceil(density * gate.units - 1e-6)) / gate.units
    return density


def accuracy(model: nn.Module, images: Images) -> float:
    """Share of right answers."""
    model.eval()
    right = 0
    with torch.no_grad():
        for inputs, labels in images.batches(250):
            right += int((model(inputs).argmax(1) == labels).sum())
    return right / len(images)


def page(head: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Accuracy and MACs of every method, the mean over seeds, and what it says."""
    setting = head["settings"]
    lines, verdicts = [], []
    for target in TARGETS:
        means: dict[str, tuple[float, float]] = {}
        for method in METHODS:
            own = [row for row in rows if (row["method"], row["target"]) == (method, target)]
            reasons = [row["reason"] for row in own if "reason" in row]
            if reasons or not own:
                lines.append([method, f"{target:g}", reasons[0] if reasons else "", "", ""])
                continue
            mean = {name: sum(row[name] for row in own) / len(own)
                    for name in ("accuracy", "macs", "spread")}  # fmt: skip
            means[method] = mean["accuracy"], mean["macs"]
            lines.append(
                [method, f"{target:g}", f"{mean['macs']:.3f}", f"{mean['spread']:.3f}",
                 f"{100 * mean['accuracy']:.2f}"]
            )  # fmt: skip
        static = means.get(STATIC)
        if static is not None:
            # No more MACs than static has, to a hundredth of the dense model.
            better = [
                name
                for name, (right, macs) in means.items()
                if name != STATIC and right > static[0] and macs <= static[1] + 0.01
            ]
            verdicts.append(f"- At {target:g}: above static at no more MACs: "
                            f"{', '.join(better) if better else 'none'}.")  # fmt: skip
    return "\n".join([
        "# Accuracy against mean MACs, static and dynamic", "", heading(head["machine"]), "",
        f"{setting['model']} on {setting['data']}: {setting['epochs']} passes over "
        f"{setting['train']} images after pruning or gating, {setting['test']} images to count on, "
        f"the mean over {len(SEEDS)} seeds. MACs are over those of the dense model, the gates' "
        "included; the spread is over images.", "", *verdicts, "",
        markdown_table(["method", "target", "mean MACs", "spread", "accuracy, %"], lines),
    ])  # fmt: skip


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=DOCS)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="few images, one target, no page")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(options.threads)
    setting = Setting(train=256, test=250, epochs=1) if options.quick else Setting()
    head = {"machine": machine(options.threads), "settings": dataclasses.asdict(setting)}
    print(heading(head["machine"]), flush=True)
    keys = [(method, target, seed) for seed in SEEDS for target in TARGETS for method in METHODS]
    if options.quick:
        keys = [(method, 0.5, 0) for method in METHODS]
    record: Record[Key] = Record(
        ROOT / "runs" / f"{NAME}{'_quick' if options.quick else ''}.jsonl", head,
        lambda row: (row["method"], row["target"], row["seed"]),
        options.resume and not options.quick,
    )  # fmt: skip
    train = load_images(setting.data, "train", setting.train)
    test = load_images(setting.data, "test", setting.test)
    for done, key in enumerate(keys, start=1):
        if key not in record.cells:
            method, target, seed = key
            found = cell(setting, key, train, test)
            record.add({"method": method, "target": target, "seed": seed, **found})
        print(f"{done} of {len(keys)}", record.cells[key], flush=True)
    if not options.quick:
        rows = [record.cells[key] for key in keys]
        write_results(NAME, {**head, "rows": rows}, page(head, rows), options.folder)


if __name__ == "__main__":
    main()
