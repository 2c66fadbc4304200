"""Make a model sparse: choose units, zero them, check that nothing else changed."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.errors import BudgetError, NothingToPruneError, ParityError
from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.masks import Place, effective, mask_at, places
from secateur.plan import Plan
from secateur.profiling import profile
from secateur.request import Request
from secateur.result import GroupSummary, Result
from secateur.sparse.scoring import SparseScorer
from secateur.sparse.select import Layer, removed_globally, removed_per_layer, zeros_wanted
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
    masks = {weight.name: _mask(model, weight) for weight, _ in units}
    scorer = SparseScorer(model, request.criterion, units, request.data, request.loss, request.seed)
    removed = _choose(units, masks, scorer, request)
    for weight, tiling in units:
        kept = weight.stored(~tiling.spread(removed[weight.name]))
        before_kept = masks[weight.name]
        plan.masks[weight.name] = kept.contiguous() if before_kept is None else kept & before_kept
        plan.shapes[weight.name] = list(weight.shape)
    with transaction(model):
        expected = _masked_outputs(model, inputs, plan) if verify else None
        apply_plan(plan, model, optimizer, ema)
        error = None if expected is None else _compared(model, inputs, expected)
    groups = [
        GroupSummary(weight.name, (), tiling.count, _left(weight, tiling, plan.masks[weight.name]))
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


def _mask(model: nn.Module, weight: Weight) -> Tensor | None:
    """The mask that is on a weight already."""
    mask = mask_at(model.get_submodule(weight.module), weight.leaf)
    return None if mask is None else mask.cpu()


def _zeros(weight: Weight, tiling: Tiling, mask: Tensor | None) -> Tensor | None:
    """How many entries of every unit are masked."""
    if mask is None:
        return None
    return tiling.sums((~weight.canonical(mask)).to(torch.int64))


def _left(weight: Weight, tiling: Tiling, mask: Tensor) -> int:
    """How many units keep at least one entry."""
    return int((tiling.sums(weight.canonical(mask).to(torch.int64)) > 0).sum())


def _choose(
    units: Units, masks: dict[str, Tensor | None], scorer: SparseScorer, request: Request
) -> dict[str, Tensor]:
    sparsity = request.budget["sparsity"]
    layers = [
        Layer(
            weight.name,
            tiling,
            functools.partial(scorer.scores, weight),
            request.min_keep,
            _zeros(weight, tiling, masks[weight.name]),
        )
        for weight, tiling in units
    ]
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


def _outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    with evaluating(model):
        result = run(model, inputs.fresh())
        return {name: tensor.clone() for name, tensor in named_tensors(result)}


def _masked_outputs(model: nn.Module, inputs: Inputs, plan: Plan) -> dict[str, Tensor]:
    """What the dense model returns with every weight multiplied by its mask."""
    with contextlib.ExitStack() as stack:
        for place in places(model):
            mask = plan.masks.get(place.name)
            if mask is not None:
                stack.enter_context(_masked(place, mask))
        return _outputs(model, inputs)


@contextlib.contextmanager
def _masked(place: Place, mask: Tensor) -> Iterator[None]:
    """Let a weight be what it is times its mask."""
    weight = effective(place.module, place.leaf)
    masked = weight * mask.to(weight.device)
    module = place.module
    if place.tensor is not None:
        data, place.tensor.data = place.tensor.data, masked
        try:
            yield
        finally:
            place.tensor.data = data
    elif parametrize.is_parametrized(module, place.leaf):
        computing: Any = module.parametrizations[place.leaf]  # type: ignore[union-attr, index]
        computing.__dict__["forward"] = lambda: masked
        try:
            yield
        finally:
            del computing.__dict__["forward"]
    else:
        hook = module.register_forward_pre_hook(
            lambda module, inputs: setattr(module, place.leaf, masked)
        )
        try:
            yield
        finally:
            hook.remove()
            setattr(module, place.leaf, weight)


def _compared(model: nn.Module, inputs: Inputs, expected: dict[str, Tensor]) -> float:
    error, _ = difference(_outputs(model, inputs), expected)
    if error != 0.0:
        raise ParityError(
            f"the sparse model differs from the masked one by {error:.3g}; the model was restored"
        )
    return error
