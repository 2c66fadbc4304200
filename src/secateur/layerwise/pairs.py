"""Inputs of a pruned model's weights beside the outputs of the dense model's, place by place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.inputs import Inputs
from secateur.observing.moments import Moments
from secateur.observing.patches import (
    parameter_shape,
    places_of,
    rows_of,
    samples_of,
    step_of,
)
from secateur.observing.reading import Reading
from secateur.observing.standins import forward, standing_in
from secateur.observing.watching import Product, Watcher
from secateur.weights import Weight, prunable_weights

__all__ = ["Enough", "Pairs", "watch"]


class Enough(BaseException):
    """Everything asked for was seen; no model is meant to catch this."""


def watch(
    model: nn.Module,
    inputs: Inputs,
    seed: int,
    names: Iterable[str],
    product: Callable[[Product, Any], None],
) -> None:
    """Run a model until `product` raises `Enough`, or to its end."""
    with standing_in(model, seed) as stand_ins, torch.no_grad():
        watcher = Watcher(model, inputs, names, product, stand_ins=stand_ins)
        with watcher.watching():
            try:
                forward(model, stand_ins, inputs)
            except Enough:
                return


class Pairs:
    """Moments of some weights' inputs in one model and their outputs in another.

    Parameters
    ----------
    model, dense : nn.Module
        Where inputs and wanted outputs come from.
    reading : Reading
    targets : dict
        Parameter of `model` -> its weight.
    removed : mapping
        Parameter -> dimension -> indices of `dense` that `model` lacks.
    held_out : float
        Share of every batch's rows, the last ones, that go into moments of their own.
    positions : int, optional
        Output positions of a convolution that count, of every sample, the same in both models;
        default all.
    """

    def __init__(
        self,
        model: nn.Module,
        dense: nn.Module,
        reading: Reading,
        targets: dict[str, Weight],
        removed: Mapping[str, Mapping[int, Sequence[int]]],
        held_out: float,
        positions: int | None = None,
    ) -> None:
        self.model, self.dense, self.reading = model, dense, reading
        self.targets, self.held_out, self.positions = targets, held_out, positions
        there = {weight.name: weight for weight in prunable_weights(dense)}
        self._twins = {name: there[weight.name] for name, weight in targets.items()}
        self._meant = {
            name: twin.matrix(dense.get_parameter(name).detach())
            for name, twin in self._twins.items()
        }
        self._left = {
            name: _left(twin, removed.get(name, {})) for name, twin in self._twins.items()
        }
        self._found: dict[str, tuple[Moments, Moments]] = {}
        self._waiting: dict[str, list[Product]] = {}

    def moments(self) -> dict[str, tuple[Moments, Moments]]:
        """Read the data: parameter -> moments to fit by, and those of the rows held out."""
        seed = self.reading.seed
        for inputs, _ in dataclasses.replace(self.reading, progress=None).batches():
            self._waiting = {name: [] for name in self.targets}
            watch(self.dense, inputs, seed, self.targets, self._remember)
            watch(self.model, inputs, seed, self.targets, self._pair)
        return self._found

    def _remember(self, seen: Product, result: Any) -> None:
        for name in seen.names:
            if parameter_shape(seen) == self._twins[name].shape:
                self._waiting[name].append(seen)

    def _pair(self, seen: Product, result: Any) -> None:
        for name in seen.names:
            if parameter_shape(seen) == self.targets[name].shape:
                rows = result.numel() // self.targets[name].canonical_shape[0]
                self._add(name, seen, self._waiting[name].pop(0), rows)
        if not any(self._waiting.values()):
            raise Enough

    def _add(self, name: str, seen: Product, twin: Product, rows: int) -> None:
        drawn = sum(moments.rows for moments in self._found.get(name, ()))
        # Other places in every batch, and the same in both models.
        places = places_of(twin, rows, self.positions, self.reading.seed + drawn)
        if places is not None:
            rows = len(places) * samples_of(twin)
        fitting = rows - math.floor(self.held_out * rows)
        step, left = step_of(twin), self._left[name]
        pieces = zip(rows_of(seen, step, places), rows_of(twin, step, places), strict=True)
        for x, wide in pieces:
            dtype = torch.promote_types(x.dtype, torch.float32)
            x, wide = x.to(dtype), wide.to(dtype)
            y = torch.einsum("ngd,god->ngo", wide, self._meant[name].to(wide))
            if left is not None:
                y = y.flatten(1)[:, left.to(y.device)]
            y = y.reshape(len(x), x.shape[1], -1)
            if name not in self._found:
                self._found[name] = (Moments.of(x, y), Moments.of(x, y))
            now = min(max(fitting, 0), len(x))
            to_fit, to_judge = self._found[name]
            to_fit.add(x[:now], y[:now])
            to_judge.add(x[now:], y[now:])
            fitting -= len(x)


def _left(dense: Weight, removed: Mapping[int, Sequence[int]]) -> Tensor | None:
    """Outputs of a dense weight that are left; None for all."""
    gone = removed.get(0 if dense.storage == "outputs first" else 1)
    if not gone:
        return None
    # Where inputs come first, the dimension is that of one group, and all groups share it.
    groups = 1 if dense.storage == "outputs first" else dense.groups
    left = torch.ones(groups, dense.canonical_shape[0] // groups, dtype=torch.bool)
    left[:, list(gone)] = False
    return left.flatten().nonzero()[:, 0]
