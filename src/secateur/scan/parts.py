"""What it costs to make parts of one weight zero, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from secateur.allocation import Curve, Sensitivity, Uniform
from secateur.errors import BudgetError
from secateur.inputs import Inputs
from secateur.plan import Plan
from secateur.request import Request
from secateur.sparsity.base import SparseGranularity, Task
from secateur.sparsity.scoring import SparseScorer
from secateur.sparsity.tiles import Tiling
from secateur.weights import Weight

__all__ = ["scan_weights"]


def scan_weights(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    granularity: SparseGranularity,
    weights: list[Weight],
    held: Mapping[str, Tensor],
    ratios: Sequence[float],
    each: Callable[[Sequence[Plan]], Iterator[tuple[int, float]]],
    tick: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """Mask every weight alone, at several shares of zeros, and judge each masked copy.

    Parameters
    ----------
    held : dict
        Weight name -> mask that is on it already, True where kept.
    ratios : sequence of float
        Ascending. N:M comes to the N that is nearest, down to its own; a share that leaves a
        weight less than its floor is left out.
    each : callable
        Plans, of one mask at most each -> ``(index, value)``, how good the model is after each
        plan alone.
    tick : callable, optional
        Called as ``tick(done, total, text)`` after every trial, in the order they end.
    """
    tried = _masks(model, inputs, request, granularity, weights, held, ratios)
    trials = [(weight, zeros) for weight in weights for zeros in tried[weight.name]]
    plans = [_alone(weight.name, tried[weight.name][zeros]) for weight, zeros in trials]
    values: dict[int, float] = {}
    for index, value in each([Plan(), *plans]):
        values[index] = value
        if tick is not None and index:
            weight, zeros = trials[index - 1]
            text = f"{weight.name} with {zeros / weight.numel:.1%} zeros: {value:.4g}"
            tick(len(values), 1 + len(plans), text)
    found = {(w.name, zeros): values[1 + at] for at, (w, zeros) in enumerate(trials)}
    curves = tuple(
        Curve(
            weight.name,
            weight.numel,
            tuple(tried[weight.name]),
            tuple(found[weight.name, zeros] for zeros in tried[weight.name]),
            values[0],
        )
        for weight in weights
    )
    return Sensitivity(values[0], curves, tuple(ratios), granularity.name, request.criterion.spec)


def _alone(name: str, mask: Tensor) -> Plan:
    """The plan that masks one weight."""
    return Plan(masks={name: mask}, shapes={name: list(mask.shape)})


def _masks(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    granularity: SparseGranularity,
    weights: list[Weight],
    held: Mapping[str, Tensor],
    ratios: Sequence[float],
) -> dict[str, dict[int, Tensor]]:
    """Weight name -> number of zeros -> the mask that makes them, ascending."""
    scorers: dict[tuple[tuple[str, Tiling], ...], SparseScorer] = {}

    def scorer(units: Sequence[tuple[Weight, Tiling]]) -> SparseScorer:
        key = tuple((weight.name, tiling) for weight, tiling in units)
        if key not in scorers:
            scorers[key] = SparseScorer(
                model,
                request.criterion,
                units,
                request.data,
                request.loss,
                request.seed,
                inputs=inputs,
            )
        return scorers[key]

    uniform = Uniform()
    by_row = uniform.by_row(request.criterion.scope)

    def chosen(stage: SparseGranularity, share: float, some: list[Weight]) -> dict[str, Tensor]:
        task = Task(some, scorer, share, uniform, request.min_keep, dict(held), None, by_row)
        return stage.choose(task).masks

    found: dict[str, dict[int, Tensor]] = {weight.name: {} for weight in weights}
    for stage, share in dict.fromkeys(granularity.towards(ratio) for ratio in ratios):
        try:
            masks = chosen(stage, share, weights)
        except BudgetError:
            masks = {}
            for weight in weights:
                try:
                    masks |= chosen(stage, share, [weight])
                except BudgetError:
                    continue
        for weight in weights:
            if weight.name not in masks:
                continue
            kept, before = weight.stored(masks[weight.name]).contiguous(), held.get(weight.name)
            mask = kept if before is None else kept & before
            zeros = int((~mask).sum())
            if zeros > max(found[weight.name], default=0):
                found[weight.name][zeros] = mask
    return found
