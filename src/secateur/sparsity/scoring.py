"""Scores of sparse units: means over the entries of a unit, made one weight at a time."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.criteria import Criterion, ElementwiseCriterion, FunctionCriterion, Random
from secateur.criteria.elementwise import working_dtype
from secateur.criteria.resolve import reading_for
from secateur.errors import CriterionError, InputError
from secateur.inputs import Inputs
from secateur.masks import effective
from secateur.observing.batches import Loss
from secateur.observing.reading import Progress, Reading
from secateur.sparsity.threshold import RUN
from secateur.sparsity.tiles import Tiling
from secateur.weights import Weight

__all__ = ["SparseScorer"]

# PyTorch works on fewer entries than 2^15 without waiting for its other threads.
SERIAL = 1 << 14


class SparseScorer:
    """Scores the units of a model's weights under one criterion; lower goes first.

    A unit's score is the mean over its entries, so that units cut short at an edge, and layers
    whose units are larger, compare with others.

    Parameters
    ----------
    model : nn.Module
    criterion : Criterion
    units : sequence of (Weight, Tiling)
        What will be scored.
    data, loss, inputs
        For criteria that run the model; read once.
    seed : int
        Of everything random.

    Raises
    ------
    InputError
        When the criterion is not defined for parts of weights, or data is missing.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        units: Sequence[tuple[Weight, Tiling]],
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        if not criterion.parts:
            raise InputError(
                f"criterion {criterion.name!r} scores whole channels, not parts of weights; use "
                "granularity 'channel', 'filter' or 'neuron' with it, or a criterion that scores "
                "single weights, such as magnitude, taylor or wanda"
            )
        reading = reading_for(criterion, model, data, inputs, loss, seed, progress)
        self.model, self.criterion, self.seed = model, criterion, seed
        self.tilings = {weight.name: tiling for weight, tiling in units}
        self._means: dict[str, Tensor] = {}
        if criterion.streams:
            self._read({weight.name: weight for weight, _ in units}, reading)

    def scores(self, weight: Weight) -> Tensor:
        """One finite score per unit, ``[*grid]``, float32.

        Raises
        ------
        CriterionError
            When the criterion returns NaN, infinity or a wrong shape.
        """
        tiling, criterion = self.tilings[weight.name], self.criterion
        if weight.name in self._means:
            scores = self._means[weight.name]
        elif isinstance(criterion, Random):
            generator = torch.Generator().manual_seed(self.seed ^ zlib.crc32(weight.name.encode()))
            scores = torch.rand(tiling.grid, generator=generator)
        else:
            with torch.no_grad():
                tensor = self._tensor(weight)
                values = weight.canonical(tensor).to(working_dtype(tensor.dtype), copy=True)
                scores = self._judged(values, None, tiling)
        self._check(scores, weight)
        return scores

    def runs(self, weight: Weight) -> Iterator[Tensor]:
        """The same scores in runs of the units' order, ``[units of the run]``.

        Where every entry is scored on its own, no more than a run is made at a time; it is
        overwritten by the next.

        Raises
        ------
        CriterionError
            As `scores` does.
        """
        tiling, criterion = self.tilings[weight.name], self.criterion
        if (
            weight.name in self._means
            or not isinstance(criterion, ElementwiseCriterion)
            or math.prod(tiling.tile) > 1
        ):
            yield from self.scores(weight).flatten().split(RUN)
            return
        entries = weight.canonical(self._tensor(weight)).flatten()
        dtype = working_dtype(entries.dtype)
        held = torch.empty(min(RUN, len(entries)), dtype=dtype, device=entries.device)
        step = SERIAL if entries.device.type == "cpu" else RUN
        for run in entries.split(RUN):
            scores = held[: len(run)]
            for piece, part in zip(run.split(step), scores.split(step), strict=True):
                found = criterion.elements(part.copy_(piece), None)
                if found is not part:
                    part.copy_(found)
            self._check(scores, weight)
            yield scores

    def _check(self, scores: Tensor, weight: Weight) -> None:
        plain = scores.device.type == "cpu" and not scores.requires_grad
        finite = np.isfinite(scores.numpy()) if plain else torch.isfinite(scores)
        if not bool(finite.all()):
            raise CriterionError(
                f"criterion {self.criterion.name!r} returned NaN or infinity for {weight.name!r}"
            )

    def _judged(self, values: Tensor, grad: Tensor | None, tiling: Tiling) -> Tensor:
        criterion = self.criterion
        if isinstance(criterion, ElementwiseCriterion):
            return tiling.means(criterion.elements(values, grad))
        assert isinstance(criterion, FunctionCriterion)
        rows = tiling.rows(values)
        scores = torch.as_tensor(criterion.function(rows))
        if tuple(scores.shape) != (len(rows),):
            raise CriterionError(
                f"criterion {criterion.name!r} returned shape {tuple(scores.shape)}; "
                f"it must return one score per row, shape ({len(rows)},)"
            )
        return scores.reshape(tiling.grid).float()

    def _tensor(self, weight: Weight) -> Tensor:
        return effective(self.model.get_submodule(weight.module), weight.leaf)

    def _read(self, weights: dict[str, Weight], reading: Reading) -> None:
        criterion, done = self.criterion, 0
        names = self._parameters(weights)
        batch: dict[str, Tensor] = {}

        def receive(name: str, tensor: Tensor, signal: Tensor | None) -> None:
            weight = weights[names[name]]
            if signal is None:
                return
            dtype = working_dtype(tensor.dtype)
            values = weight.canonical(tensor).to(dtype, copy=True)
            grad = weight.canonical(signal).to(dtype, copy=True)
            batch[weight.name] = self._judged(values, grad, self.tilings[weight.name])

        def after_batch() -> None:
            nonlocal done
            done += 1
            for name, tiling in self.tilings.items():
                new = batch.pop(name, torch.zeros(tiling.grid))
                mean = self._means.setdefault(name, torch.zeros_like(new))
                mean += (new.to(mean.device) - mean) / done

        criterion.stream(reading, list(names), receive, after_batch)

    def _parameters(self, weights: dict[str, Weight]) -> dict[str, str]:
        """Parameter name -> weight name, under the names that gradients come by."""
        own = {id(parameter): name for name, parameter in self.model.named_parameters()}
        found = {}
        for name, weight in weights.items():
            tensor = self.model.get_submodule(weight.module)._parameters.get(weight.leaf)
            if id(tensor) not in own:
                raise InputError(
                    f"{name!r} is computed from other parameters, so criterion "
                    f"{self.criterion.name!r} has no gradient of it; ignore that layer, or remove "
                    "its parametrisation first"
                )
            found[own[id(tensor)]] = name
        return found
