"""Make a model sparse: choose units, zero them, check that nothing else changed."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from secateur.errors import BudgetError, NothingToPruneError, ParityError
from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.plan import Plan
from secateur.profiling import profile
from secateur.request import Request
from secateur.result import GroupSummary, Result
from secateur.sparse.scoring import SparseScorer
from secateur.sparse.select import (
    Layer,
    removed_globally,
    removed_per_layer,
    removed_per_row,
    zeros_wanted,
)
from secateur.sparse.table import SparseGranularity
from secateur.sparse.tiles import Tiling
from secateur.sparse.weights import Weight, prunable_weights
from secateur.surgery.apply import apply_plan
from secateur.surgery.transaction import transaction
from secateur.verify import difference

__all__ = ["sparsify"]

Units = list[tuple[Weight, Tiling]]


def sparsify(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    granularity: SparseGranularity,
    *,
    verify: bool,
    optimizer: torch.optim.Optimizer | None = None,
    ema: nn.Module | None = None,
) -> Result:
    """Prune to a sparsity on a resolved request; see :func:`secateur.prune`."""
    before = profile(model, inputs)
    units, skipped = _units(model, request, granularity)
    plan = Plan(settings=request.settings)
    scorer = SparseScorer(
        model,
        request.criterion,
        units,
        request.data,
        request.loss,
        request.seed,
        inputs=inputs,
    )
    removed = _choose(units, scorer, request)
    for weight, tiling in units:
        plan.masks[weight.name] = weight.stored(~tiling.spread(removed[weight.name])).contiguous()
        plan.shapes[weight.name] = list(weight.shape)
    with transaction(model):
        expected = _masked_outputs(model, inputs, plan) if verify else None
        apply_plan(plan, model, optimizer, ema)
        error = None if expected is None else _compared(model, inputs, expected)
    groups = [
        GroupSummary(weight.name, (), tiling.count, tiling.count - int(removed[weight.name].sum()))
        for weight, tiling in units
    ]
    return Result(model, plan, before, profile(model, inputs), skipped, error, groups)


def _units(
    model: nn.Module, request: Request, granularity: SparseGranularity
) -> tuple[Units, list[tuple[str, str]]]:
    units: Units = []
    skipped: list[tuple[str, str]] = []
    for weight in prunable_weights(model):
        reason = request.ignore.get(weight.name) or granularity.misfit(weight)
        if reason is not None:
            skipped.append((weight.name, reason))
        else:
            units.append((weight, granularity.tiling(weight)))
    if not units:
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise NothingToPruneError(
            f"no weight can be pruned at granularity {granularity.name!r} "
            f"({why or 'the model has no convolution, linear or recurrent layer'})"
        )
    return units, skipped


def _choose(units: Units, scorer: SparseScorer, request: Request) -> dict[str, Tensor]:
    sparsity, keep = request.budget["sparsity"], request.min_keep
    layers = [
        Layer(weight.name, tiling, functools.partial(_ranked, weight, scorer, request), keep)
        for weight, tiling in units
    ]
    # One granularity holds for all weights: outputs are apart in all of them, or in none.
    apart = all(layer.tiling.tile[0] == 1 for layer in layers)
    if apart and request.allocation.by_row(request.criterion.scope):
        return {layer.name: removed_per_row(layer, sparsity) for layer in layers}
    total = sum(layer.entries for layer in layers)
    zeros = zeros_wanted(sparsity, total)
    shares = request.allocation.sparsities([layer.tiling.shape for layer in layers], sparsity)
    if shares is None:
        return removed_globally(layers, zeros)
    exact = [share * layer.entries for share, layer in zip(shares, layers, strict=True)]
    counts = [math.floor(number + 1e-9) for number in exact]
    # What rounding down left over goes to the layers that lost most by it.
    order = sorted(range(len(layers)), key=lambda at: counts[at] - exact[at])
    for at in order[: max(zeros - sum(counts), 0)]:
        counts[at] += 1
    for layer, count in zip(layers, counts, strict=True):
        if count > layer.spare():
            raise BudgetError(
                f"the sparsity {count / layer.entries:.4f} of {layer.name!r} cannot be met: at "
                f"most {layer.spare() / layer.entries:.4f} is left above its floor (min_keep)"
            )
    return removed_per_layer(layers, counts)


def _ranked(weight: Weight, scorer: SparseScorer, request: Request) -> Tensor:
    return request.allocation.ranked(scorer.scores(weight), request.criterion.squared)


def _outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    with evaluating(model):
        result = run(model, inputs.fresh())
        return {name: tensor.clone() for name, tensor in named_tensors(result)}


def _masked_outputs(model: nn.Module, inputs: Inputs, plan: Plan) -> dict[str, Tensor]:
    """What the dense model returns with every weight multiplied by its mask."""
    held = []
    try:
        for name, mask in plan.masks.items():
            tensor = model.get_parameter(name)
            held.append((tensor, tensor.data))
            tensor.data = tensor.data * mask.to(tensor.device)
        return _outputs(model, inputs)
    finally:
        for tensor, data in held:
            tensor.data = data


def _compared(model: nn.Module, inputs: Inputs, expected: dict[str, Tensor]) -> float:
    error, _ = difference(_outputs(model, inputs), expected)
    if error != 0.0:
        raise ParityError(
            f"the sparse model differs from the masked one by {error:.3g}; the model was restored"
        )
    return error
