"""One cell of the table of granularities: prune a copy, fine-tune it, count what it gets right."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import secateur as sc
from benchmarks.cifar_resnet import (
    Augmented,
    CifarResNet,
    Images,
    load_images,
    load_resnet,
)
from secateur.errors import BudgetError

__all__ = ["Bench", "Setting", "cells", "hits_of", "key_of"]

DENSE, NM, CHANNEL = "dense", "N:16", "channel"
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
SEEDS = (0, 1, 2)
GRANULARITIES = (
    "element", NM, "vector:4", "vector:8", "run:4", "row", "pattern", "vector:4/2:4", "kernel",
    "block:4x4", "stripe", "shape", CHANNEL,
)  # fmt: skip
# Alike for all: these two weights are neither chosen nor counted.
IGNORED = ("conv1", "linear")
EVALUATED_AT_ONCE = 100


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a model is measured with.

    Attributes
    ----------
    model, data : str
        Names of the shared weights and images.
    train, test : int
        Images to fine-tune on, once, and to count right answers on: the first of each split.
    """

    model: str
    data: str
    train: int
    test: int
    batch: int = 32
    lr: float = 0.01


class Bench:
    """A dense model with its images, which prunes copies of it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.train: Images = load_images(setting.data, "train", setting.train)
        self.test: Images = load_images(setting.data, "test", setting.test)
        model = load_resnet(setting.model).to(memory_format=torch.channels_last)
        self.dense: CifarResNet = model
        self.example = next(self.test.batches(2))[0]
        self.weights = prunable(model)
        self._found: dict[float, CifarResNet] = {}

    def cell(self, granularity: str, sparsity: float, seed: int | None) -> dict[str, Any]:
        """Measure one cell; without a seed, one-shot.

        Returns
        -------
        dict
            The granularity as given to ``prune``, the sparsity reached, the accuracy, the right
            answers as the hexadecimal digits of their bits, and seconds; or the reason why there
            is no such cell.
        """
        started = time.perf_counter()
        try:
            model, name = self._pruned(granularity, sparsity)
        except BudgetError as error:
            return {"reason": str(error)}
        reached = self.sparsity(model)
        if seed is not None:
            batches = Augmented(self.train, self.setting.batch, seed)
            sc.recover(model, batches, epochs=1, lr=self.setting.lr, recalibrate=False, seed=seed)
            if self.sparsity(model) < reached:
                raise AssertionError(f"{name}: fine-tuning brought weights back from zero")
        hits = self._hits(model)
        return {
            "name": name,
            "sparsity": reached,
            "accuracy": float(hits.mean()),
            "hits": np.packbits(hits).tobytes().hex(),
            "seconds": round(time.perf_counter() - started, 2),
        }

    def sparsity(self, model: CifarResNet) -> float:
        """Share of the dense model's prunable weights that is zero or gone."""
        left = sum(int(torch.count_nonzero(weight)) for weight in prunable(model).values())
        return 1 - left / sum(weight.numel() for weight in self.weights.values())

    def same_cut(self, one: str, other: str, budget: float) -> bool:
        """Whether two granularities remove the very same units."""
        plans = [self._cut(name, budget)[1].removed for name in (one, other)]
        return plans[0] == plans[1]

    def _pruned(self, granularity: str, sparsity: float) -> tuple[CifarResNet, str]:
        if granularity == DENSE:
            return copy.deepcopy(self.dense), DENSE
        if granularity == CHANNEL:
            return self._smaller(sparsity), CHANNEL
        name = granularity
        if granularity == NM:
            name = f"{round(16 * (1 - sparsity)) or 1}:16"
        model = copy.deepcopy(self.dense)
        sc.prune(
            model,
            self.example,
            granularity=name,
            criterion="magnitude",
            allocation="global",
            budget=None if granularity == NM else {"sparsity": sparsity},
            ignore=IGNORED,
        )
        return model, name

    def _smaller(self, sparsity: float) -> CifarResNet:
        """The largest physically smaller model whose prunable weights reach the sparsity."""
        if sparsity in self._found:
            return copy.deepcopy(self._found[sparsity])
        low, high = 0.0, 1.0
        best = None
        # A unit is a hundredth of a percent of the parameters or more.
        while high - low > 1e-4:
            middle = (low + high) / 2
            try:
                model = self._cut(CHANNEL, middle)[0]
            except BudgetError:
                low = middle
                continue
            if self.sparsity(model) >= sparsity:
                low, best = middle, model
            else:
                high = middle
        if best is None:
            raise BudgetError(f"the sparsity {sparsity} cannot be met by removing channels")
        self._found[sparsity] = best
        return copy.deepcopy(best)

    def _cut(self, granularity: str, params: float) -> tuple[CifarResNet, sc.Plan]:
        model = copy.deepcopy(self.dense)
        result = sc.prune(
            model,
            self.example,
            granularity=granularity,
            criterion="magnitude",
            allocation="global",
            budget={"params": params},
            ignore=IGNORED,
        )
        return model, result.plan

    def _hits(self, model: CifarResNet) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            return np.concatenate([
                (model(images).argmax(dim=1) == labels).numpy()
                for images, labels in self.test.batches(EVALUATED_AT_ONCE)
            ])  # fmt: skip


def prunable(model: CifarResNet) -> dict[str, Tensor]:
    """The weights that may be pruned: of all convolutions but the first."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 4 and name.rpartition(".")[0] not in IGNORED
    }


def hits_of(record: dict[str, Any], count: int) -> np.ndarray:
    """Right answers of a cell, ``[count]`` of bool."""
    packed = np.frombuffer(bytes.fromhex(record["hits"]), dtype=np.uint8)
    return np.unpackbits(packed, count=count).astype(bool)


Key = tuple[str, str, float, int | None]


def cells(
    models: Iterable[str],
    granularities: Iterable[str] = GRANULARITIES,
    sparsities: Iterable[float] = SPARSITIES,
) -> list[Key]:
    """Every cell: one-shot first, then one seed after the other, so that all grow alike."""
    grid = [(DENSE, 0.0), *itertools.product(granularities, sparsities)]
    return [
        (model, name, sparsity, seed)
        for seed in (None, *SEEDS)
        for model in models
        for name, sparsity in grid
    ]


def key_of(record: dict[str, Any]) -> Key:
    """Which cell a record belongs to."""
    return record["model"], record["granularity"], record["target"], record["seed"]
