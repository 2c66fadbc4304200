"""Make a model sparse: choose units, zero them, check that nothing else changed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.allocation import Allocation, Sensitivity, no_evaluate
from secateur.candidates import Candidates, Trial
from secateur.errors import InputError, NothingToPruneError, ParityError
from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.layerwise import Amount
from secateur.masks import Place, effective, mask_at, places
from secateur.plan import Plan
from secateur.profiling import profile
from secateur.refit import refit
from secateur.request import TRYING, Request
from secateur.result import GroupSummary, Result
from secateur.scan import scan_weights
from secateur.sparsity.base import Chosen, SparseGranularity, Task
from secateur.sparsity.scoring import SparseScorer
from secateur.sparsity.semi import SemiStructured
from secateur.sparsity.tiles import Tiling
from secateur.surgery.apply import apply_plan
from secateur.surgery.transaction import transaction
from secateur.verify import difference
from secateur.weights import Weight, prunable_weights

__all__ = ["masks_on", "sparsify", "weights_for"]


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
    weights, skipped = weights_for(model, request, granularity)
    held = masks_on(model, weights)
    chosen, masks = _chosen(model, inputs, request, granularity, weights, dict(held))
    plan = Plan(settings={**request.settings, **chosen.settings}, masks=masks)
    plan.shapes = {weight.name: list(weight.shape) for weight in weights}
    request.agreed(plan)
    refitted = refit(model, inputs, plan, request, *_amounts(granularity, plan, held))
    with transaction(model):
        expected = None
        if verify:
            with _all_masked(model, plan.masks):
                expected = _outputs(model, inputs)
        apply_plan(plan, model, optimizer, ema)
        error = None if expected is None else _compared(model, inputs, expected)
        refitted.write(model)
    groups = [GroupSummary(weight.name, (), *chosen.counts[weight.name]) for weight in weights]
    after = profile(model, inputs)
    return Result(model, plan, before, after, skipped, error, groups, inputs, refitted.refits)


def _chosen(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    granularity: SparseGranularity,
    weights: list[Weight],
    held: dict[str, Tensor],
) -> tuple[Chosen, dict[str, Tensor]]:
    """What stays, with masks that were there before; scored anew after every round."""
    criterion = request.criterion
    allocation = _informed(model, inputs, request, granularity, weights, held)
    made: dict[str, Tensor] = {}

    def scorer(units: Sequence[tuple[Weight, Tiling]]) -> SparseScorer:
        return SparseScorer(
            model,
            criterion,
            units,
            request.data,
            request.loss,
            request.seed,
            request.told("scoring"),
            inputs,
        )

    def choose(stage: SparseGranularity, sparsity: float | None) -> Chosen:
        task = Task(
            weights,
            scorer,
            sparsity,
            allocation,
            request.min_keep,
            held,
            # Scores that no allocation changes need not be made all at once.
            None
            if type(allocation).ranked is Allocation.ranked
            else functools.partial(allocation.ranked, squared=criterion.squared),
            allocation.by_row(criterion.scope),
        )
        with _all_masked(model, made):
            chosen = stage.choose(task)
        for weight in weights:
            kept, before = weight.stored(chosen.masks[weight.name]), held.get(weight.name)
            made[weight.name] = kept.contiguous() if before is None else kept & before
        held.update(made)
        return chosen

    for stage, sparsity in _on_the_way(request, granularity, weights, held):
        choose(stage, sparsity)
    return choose(granularity, request.budget.get("sparsity")), made


def _informed(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    granularity: SparseGranularity,
    weights: list[Weight],
    held: Mapping[str, Tensor],
) -> Allocation:
    """The allocation, which may try out first what zeros in each weight cost."""
    if isinstance(granularity, SemiStructured):
        # The share is the same everywhere, and nothing is left to allocate.
        return request.allocation

    def scanned(ratios: tuple[float, ...]) -> Sensitivity:
        evaluate, seed = request.evaluate, request.seed
        if evaluate is None:
            raise no_evaluate(request.allocation.name)
        trial = Trial(model, evaluate, seed)
        told = request.told(TRYING)
        with Candidates(trial, request.engine, request.journal, told) as candidates:
            return scan_weights(
                model, inputs, request, granularity, weights, held, ratios, candidates.each
            )

    return request.allocation.informed([weight.name for weight in weights], scanned)


def _on_the_way(
    request: Request,
    granularity: SparseGranularity,
    weights: list[Weight],
    held: Mapping[str, Tensor],
) -> list[tuple[SparseGranularity, float]]:
    """What is chosen before the last round: the same share of what is left in every round."""
    rounds, name = request.criterion.rounds, request.criterion.name
    if rounds == 1:
        return []
    if granularity.at_once:
        raise InputError(
            f"granularity {granularity.name!r} is chosen at once, and criterion {name!r} takes "
            f"{rounds} rounds; take '{name}:rounds=1'"
        )
    entries = sum(weight.numel for weight in weights)
    zeros = sum(int((~held[weight.name]).sum()) for weight in weights if weight.name in held)
    density, target = 1 - zeros / entries, 1 - request.budget["sparsity"]
    if density <= target:
        return []
    shares = [1 - density * (target / density) ** (at / rounds) for at in range(1, rounds)]
    last = granularity.towards(request.budget["sparsity"])
    # Several rounds may come to the same N of M.
    return [stage for stage in dict.fromkeys(map(granularity.towards, shares)) if stage != last]


def _amounts(
    granularity: SparseGranularity, plan: Plan, held: Mapping[str, Tensor]
) -> tuple[dict[str, Amount], dict[str, Tensor]]:
    """How much of every weight goes, where the criterion may choose which; what is gone already."""
    amounts = {name: granularity.amount(kept) for name, kept in plan.masks.items()}
    return {name: each for name, each in amounts.items() if each is not None}, dict(held)


def weights_for(
    model: nn.Module, request: Request, granularity: SparseGranularity
) -> tuple[list[Weight], list[tuple[str, str]]]:
    """The weights that a granularity prunes, and why it leaves each of the others."""
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


def masks_on(model: nn.Module, weights: Sequence[Weight]) -> dict[str, Tensor]:
    """The masks that are on weights already."""
    found = {
        weight.name: mask_at(model.get_submodule(weight.module), weight.leaf) for weight in weights
    }
    return {name: mask.cpu() for name, mask in found.items() if mask is not None}


def _outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    with evaluating(model):
        result = run(model, inputs.fresh())
        return {name: tensor.clone() for name, tensor in named_tensors(result)}


@contextlib.contextmanager
def _all_masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Let every weight be what it is times its mask."""
    with contextlib.ExitStack() as stack:
        for place in places(model):
            mask = masks.get(place.name)
            if mask is not None:
                stack.enter_context(_masked(place, mask))
        yield


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
        computing: Any = module.parametrizations[place.leaf]  # type: ignore[index]
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
