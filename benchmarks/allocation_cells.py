"""One cell of the table of allocations: spread a budget, cut, recover, count what is right."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from benchmarks.cifar_resnet import Augmented, CifarResNet, Images, load_images, load_resnet
from secateur.allocation import Allocation, Knapsack, SensitivityScan
from secateur.errors import BudgetError
from secateur.inputs import as_inputs
from secateur.latency import as_runtime
from secateur.profiling import interleave
from secateur.recover import recalibrate_batchnorm

__all__ = ["ALLOCATIONS", "DENSE", "Bench", "Key", "Setting", "cells", "key_of"]

DENSE, UNIFORM = "dense", "uniform"
MEASURED = "knapsack:losses=measured"
ALLOCATIONS = (
    UNIFORM, "global", "erk", "lamp", "isomorphic", "knapsack", MEASURED, "sensitivity", "netadapt",
    "amc",
)  # fmt: skip
MEASURES = ("macs", "latency")
TARGETS = (0.7, 0.5, 0.3)
SEEDS = (0, 1, 2)
EVALUATED_AT_ONCE = 125
RUNTIME = "onnxruntime"
TIMED = "timed"
"""Stands for a seed in the cells that are measured latencies."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a model is measured with.

    Attributes
    ----------
    model, data : str
        Names of the shared weights and images.
    train, held, test : int
        Images to recover on, once; of the same split the next ones, by which searches judge; and
        images of the other split on which right answers are counted.
    calibration : int
        Of the training images, those that batch norms are recalibrated on.
    evaluations : int
        Models that a search may try out, about.
    latency_batch : int
        Images of one timed call.
    """

    model: str
    data: str
    train: int
    held: int
    test: int
    calibration: int = 250
    evaluations: int = 100
    batch: int = 32
    lr: float = 0.01
    latency_batch: int = 32


Batches = list[tuple[Tensor, Tensor]]


class Judge:
    """The mean probability of the right class on images held out; counts its calls.

    Batch norms are recalibrated first. Of few images it tells models apart that accuracy does not,
    and unlike the loss it has a floor: to a loss, a model that knows nothing is better than one
    that is wrong now and then and sure of it.
    """

    def __init__(self, calibration: Batches, held: Images) -> None:
        self.calibration = calibration
        self.held = held
        self.asked = 0

    def __call__(self, model: nn.Module) -> float:
        self.asked += 1
        recalibrate_batchnorm(model, self.calibration)
        model.eval()
        with torch.no_grad():
            return sum(
                float(model(pixels).softmax(1).gather(1, labels[:, None]).sum())
                for pixels, labels in self.held.batches(EVALUATED_AT_ONCE)
            ) / len(self.held)


class Bench:
    """A dense model with its images, of which copies are pruned."""

    def __init__(self, setting: Setting, tables: Path) -> None:
        self.setting = setting
        images = load_images(setting.data, "train", setting.train + setting.held)
        self.train = part(images, 0, setting.train)
        self.held = part(images, setting.train, len(images))
        # Shifted and mirrored, as in training: statistics of images as they are do not fit.
        some = part(images, 0, setting.calibration)
        self.calibration = list(Augmented(some, EVALUATED_AT_ONCE, seed=0))
        self.test = load_images(setting.data, "test", setting.test)
        model: CifarResNet = load_resnet(setting.model)
        self.dense = model.to(memory_format=torch.channels_last)
        self.example = next(self.test.batches(setting.latency_batch))[0]
        self._table_at = tables / f"{setting.model}.json"
        self._table: sc.LatencyTable | None = None
        self._scan: tuple[sc.allocation.Sensitivity, int, float] | None = None

    def table(self) -> sc.LatencyTable:
        """Latencies of the model's operations, measured when first asked for."""
        if self._table is None:
            self._table = sc.LatencyTable.measure(
                self.dense,
                self.example,
                RUNTIME,
                threads=torch.get_num_threads(),
                points=16,
                cache=self._table_at,
            )
        return self._table

    def scan(self) -> tuple[sc.allocation.Sensitivity, int, float]:
        """What every group can lose alone: made once, models tried out, and seconds."""
        if self._scan is None:
            judge = Judge(self.calibration, self.held)
            steps = max(1, round((self.setting.evaluations - 1) / self._groups()))
            started = time.process_time()
            table = sc.sensitivity(
                self.dense,
                self.example,
                judge,
                ratios=[step / (steps + 1) for step in range(1, steps + 1)],
            )
            self._scan = table, judge.asked, time.process_time() - started
        return self._scan

    def search(self, allocation: str, measure: str, target: float) -> dict[str, Any]:
        """Cut a copy, and say how good it is before it is trained again."""
        model = copy.deepcopy(self.dense)
        found: dict[str, Any] = {"seconds": 0.0, "evaluations": 0}
        if allocation != DENSE:
            table = self.table() if measure == "latency" else None
            judge = Judge(self.calibration, self.held)
            chosen, tried, seconds = self._allocation(allocation, target)
            started = time.process_time()
            try:
                result = sc.prune(
                    model,
                    self.example,
                    allocation=chosen,
                    budget={measure: target},
                    latency=table,
                    evaluate=judge,
                    verify=False,
                )
            except BudgetError as error:
                return {"reason": str(error)}
            found = {
                "seconds": seconds + time.process_time() - started,
                "evaluations": tried + judge.asked,
                "plan": result.plan.to_json(),
                "reached": result.costs[measure][1] / result.costs[measure][0],
                "macs": result.after.macs / result.before.macs,
            }
        recalibrate_batchnorm(model, self.calibration)
        return found | {"accuracy": accuracy(model, self.test)}

    def recovered(self, plan: str | None, seed: int) -> dict[str, Any]:
        """Cut a copy by a plan, train it for one pass, and say how good it is."""
        started = time.process_time()
        model = copy.deepcopy(self.dense)
        if plan is not None:
            sc.Plan.from_json(plan).apply(model)
            recalibrate_batchnorm(model, self.calibration)
        batches = Augmented(self.train, self.setting.batch, seed)
        sc.recover(model, batches, epochs=1, lr=self.setting.lr, recalibrate=False, seed=seed)
        return {"accuracy": accuracy(model, self.test), "seconds": time.process_time() - started}

    def timed(self, plan: str | None) -> dict[str, Any]:
        """The latency that is left, as a ratio of the whole models, which run in turns."""
        model = copy.deepcopy(self.dense)
        if plan is not None:
            sc.Plan.from_json(plan).apply(model)
        inputs = as_inputs(self.example)
        threads = torch.get_num_threads()
        runtime = as_runtime(RUNTIME)(torch.float32, torch.device("cpu"), threads)
        calls = {
            name: runtime.model(each.eval(), inputs)
            for name, each in (("dense", self.dense), ("pruned", model))
        }
        found = interleave(calls, runs=30, warmup=2, seconds=10, threads=threads)
        return {"measured": found["pruned"].ratio(found["dense"])}

    def _groups(self) -> int:
        return len(sc.trace(self.dense, self.example).groups)

    def _allocation(self, name: str, target: float) -> tuple[str | Allocation, int, float]:
        """The allocation, models tried out before it, and the seconds that took.

        All that try models out try about as many.
        """
        if name in (MEASURED, "sensitivity"):
            table, tried, seconds = self.scan()
            if name == MEASURED:
                return Knapsack(losses="measured", table=table), tried, seconds
            return SensitivityScan(table=table), tried, seconds
        evaluations = self.setting.evaluations
        if name == "netadapt":
            # Groups that have nothing left to give make no proposals.
            iterations = max(1, round(1.5 * evaluations / self._groups()))
            return f"netadapt:step={(1 - target) / iterations:.6g},decay=1.0", 0, 0.0
        if name == "amc":
            return f"amc:episodes={evaluations},warmup={evaluations // 4}", 0, 0.0
        return name, 0, 0.0


def accuracy(model: nn.Module, images: Images) -> float:
    """Share of the images that the model is right about."""
    model.eval()
    with torch.no_grad():
        hits = sum(
            int((model(pixels).argmax(dim=1) == labels).sum())
            for pixels, labels in images.batches(EVALUATED_AT_ONCE)
        )
    return hits / len(images)


def part(images: Images, first: int, last: int) -> Images:
    """Some of the images."""
    return Images(images.pixels[first:last], images.labels[first:last])


Key = tuple[str, str, str, float, int | str | None]


def cells(
    models: Iterable[str],
    allocations: Iterable[str] = ALLOCATIONS,
    measures: Iterable[str] = MEASURES,
    targets: Iterable[float] = TARGETS,
    seeds: Iterable[int] = SEEDS,
) -> list[Key]:
    """Every cell: the searches of a model first, then one seed after the other, then latencies."""
    grid = [(DENSE, "macs", 1.0)] + [
        (allocation, measure, target)
        for measure, target, allocation in itertools.product(measures, targets, allocations)
    ]
    # How much faster a model is that was cut to a latency says how good the table is.
    timed = {
        None: grid,
        **dict.fromkeys(seeds, grid),
        TIMED: [c for c in grid if c[1] == "latency"],
    }
    return [
        (model, allocation, measure, target, seed)
        for model in models
        for seed, listed in timed.items()
        for allocation, measure, target in listed
    ]


def key_of(record: dict[str, Any]) -> Key:
    """Which cell a record belongs to."""
    return (
        record["model"], record["allocation"], record["measure"], record["target"],
        record["seed"],
    )  # fmt: skip
