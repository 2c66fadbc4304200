"""Make a model sparse: choose units, zero them, check that nothing else changed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.allocation import Allocation
from secateur.errors import NothingToPruneError, ParityError
from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.layerwise import Amount
from secateur.masks import Place, effective, mask_at, places
from secateur.plan import Plan
from secateur.profiling import profile
from secateur.refit import check_data, refit
from secateur.request import Request
from secateur.result import GroupSummary, Result
from secateur.sparse.base import SparseGranularity, Task
from secateur.sparse.scoring import SparseScorer
from secateur.sparse.tiles import Tiling
from secateur.surgery.apply import apply_plan
from secateur.surgery.transaction import transaction
from secateur.verify import difference
from secateur.weights import Weight, prunable_weights

__all__ = ["sparsify"]


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
    check_data(request)
    before = profile(model, inputs)
    weights, skipped = _weights(model, request, granularity)
    criterion, allocation = request.criterion, request.allocation

    def scorer(units: Sequence[tuple[Weight, Tiling]]) -> SparseScorer:
        return SparseScorer(
            model, criterion, units, request.data, request.loss, request.seed, inputs=inputs
        )

    masks = {weight.name: _mask(model, weight) for weight in weights}
    task = Task(
        weights,
        scorer,
        request.budget.get("sparsity"),
        allocation,
        request.min_keep,
        {weight.name: mask for weight in weights if (mask := masks[weight.name]) is not None},
        # Scores that no allocation changes need not be made all at once.
        None
        if type(allocation).ranked is Allocation.ranked
        else functools.partial(allocation.ranked, squared=criterion.squared),
        allocation.by_row(criterion.scope),
    )
    chosen = granularity.choose(task)
    plan = Plan(settings={**request.settings, **chosen.settings})
    for weight in weights:
        kept, held = weight.stored(chosen.masks[weight.name]), masks[weight.name]
        plan.masks[weight.name] = kept.contiguous() if held is None else kept & held
        plan.shapes[weight.name] = list(weight.shape)
    refitted = refit(model, inputs, plan, request, *_amounts(granularity, plan, masks))
    with transaction(model):
        expected = _masked_outputs(model, inputs, plan) if verify else None
        apply_plan(plan, model, optimizer, ema)
        error = None if expected is None else _compared(model, inputs, expected)
        refitted.write(model)
    groups = [GroupSummary(weight.name, (), *chosen.counts[weight.name]) for weight in weights]
    after = profile(model, inputs)
    return Result(model, plan, before, after, skipped, error, groups, inputs, refitted.refits)


def _amounts(
    granularity: SparseGranularity, plan: Plan, masks: Mapping[str, Tensor | None]
) -> tuple[dict[str, Amount], dict[str, Tensor]]:
    """How much of every weight goes, where the criterion may choose which; what is gone already."""
    amounts = {name: granularity.amount(kept) for name, kept in plan.masks.items()}
    held = {name: mask for name, mask in masks.items() if mask is not None}
    return {name: each for name, each in amounts.items() if each is not None}, held


def _weights(
    model: nn.Module, request: Request, granularity: SparseGranularity
) -> tuple[list[Weight], list[tuple[str, str]]]:
    weights: list[Weight] = []
    skipped: list[tuple[str, str]] = []
    for weight in prunable_weights(model):
        reason = request.ignore.get(weight.name) or granularity.misfit(weight)
        if reason is not None:
            skipped.append((weight.name, reason))
        else:
            weights.append(weight)
    if not weights:
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise NothingToPruneError(
            f"no weight can be pruned at granularity {granularity.name!r} "
            f"({why or 'the model has no convolution, linear or recurrent layer'})"
        )
    return weights, skipped


def _mask(model: nn.Module, weight: Weight) -> Tensor | None:
    """The mask that is on a weight already."""
    mask = mask_at(model.get_submodule(weight.module), weight.leaf)
    return None if mask is None else mask.cpu()


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
