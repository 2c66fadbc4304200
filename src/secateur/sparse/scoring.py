"""Scores of sparse units: means over the entries of a unit, made one weight at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.criteria import Criterion, ElementwiseCriterion, FunctionCriterion, Random
from secateur.criteria.batches import Loss
from secateur.criteria.elementwise import working_dtype
from secateur.criteria.gradients import Progress, stream_gradients
from secateur.errors import CriterionError, InputError
from secateur.masks import effective
from secateur.sparse.tiles import Tiling
from secateur.sparse.weights import Weight

__all__ = ["SparseScorer"]


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
    data, loss
        For criteria that need gradients; read once, in `prepare`.
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
    ) -> None:
        if not isinstance(criterion, (ElementwiseCriterion, FunctionCriterion, Random)):
            raise InputError(
                f"criterion {criterion.name!r} scores whole channels, not parts of weights; "
                "sparse granularities take magnitude, l1, taylor, random or a function"
            )
        if criterion.needs_data and data is None:
            raise InputError(
                f"criterion {criterion.name!r} needs gradients: pass data=, an iterable of "
                "(inputs, targets) batches, or of dicts for models that return a loss"
            )
        self.model, self.criterion, self.seed = model, criterion, seed
        self.tilings = {weight.name: tiling for weight, tiling in units}
        self._means: dict[str, Tensor] = {}
        if criterion.needs_data:
            self._read({weight.name: weight for weight, _ in units}, data, loss, progress)

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
        if not bool(torch.isfinite(scores).all()):
            raise CriterionError(
                f"criterion {criterion.name!r} returned NaN or infinity for {weight.name!r}"
            )
        return scores

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

    def _read(
        self,
        weights: dict[str, Weight],
        data: Iterable[Any] | None,
        loss: Loss | None,
        progress: Progress | None,
    ) -> None:
        criterion, done = self.criterion, 0
        names = self._parameters(weights)
        batch: dict[str, Tensor] = {}

        def receive(name: str, tensor: Tensor, gradient: Tensor) -> None:
            weight = weights[names[name]]
            dtype = working_dtype(tensor.dtype)
            values = weight.canonical(tensor).to(dtype, copy=True)
            grad = weight.canonical(gradient).to(dtype, copy=True)
            batch[weight.name] = self._judged(values, grad, self.tilings[weight.name])

        def after_batch() -> None:
            nonlocal done
            done += 1
            for name, tiling in self.tilings.items():
                new = batch.pop(name, torch.zeros(tiling.grid))
                mean = self._means.setdefault(name, torch.zeros_like(new))
                mean += (new.to(mean.device) - mean) / done

        stream_gradients(
            self.model,
            names,
            data if data is not None else (),
            receive,
            after_batch=after_batch,
            loss=loss,
            max_batches=getattr(criterion, "max_batches", None),
            seed=self.seed,
            progress=progress,
        )

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
