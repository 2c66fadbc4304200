"""Depth and width in one call: layers first, then what is inside those that stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from secateur.configs import Configured
from secateur.errors import InputError
from secateur.granularity import Granularity
from secateur.inputs import Inputs
from secateur.layers import prune_layers
from secateur.plan import Plan
from secateur.request import Request, check_model
from secateur.result import Result
from secateur.surgery.apply import apply_plan
from secateur.surgery.transaction import Snapshot

__all__ = ["prune_depth"]

DEPTH_SHARE = 0.5
"""Of what is to go, how much goes as whole layers where width goes as well."""


def prune_depth(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    prune_width: Callable[..., Result],
    *,
    verify: bool,
    optimizer: torch.optim.Optimizer | None = None,
    ema: nn.Module | None = None,
) -> Result:
    """Prune layers and, where the granularity has more than them, width.

    Layers take half of what is to go, rounded down to whole layers but one at least; width takes
    the rest. Both are decided on copies of nothing: the model is put back and cut once.

    Parameters
    ----------
    prune_width : callable
        ``prune_width(model, inputs, request, nonzero, verify=...)``.
    """
    granularity = request.granularity
    assert isinstance(granularity, Granularity)
    if not granularity.roles:
        return prune_layers(model, inputs, request, verify=verify, optimizer=optimizer, ema=ema)
    if request.criterion.updates:
        raise InputError(
            f"criterion {request.criterion.name!r} changes what survives; prune layers in a call "
            "of their own first"
        )
    share = {key: 1 - DEPTH_SHARE * (1 - left) for key, left in request.budget.items()}
    snapshot = Snapshot(model)
    try:
        first = prune_layers(
            model, inputs, dataclasses.replace(request, budget=share), verify=verify, least=False
        )
        snapshot_names = _dense_names(model, snapshot, first.plan)
        rest = dataclasses.replace(
            request,
            base=request.base or {key: dense for key, (dense, _) in first.costs.items()},
            granularity=dataclasses.replace(granularity, layers=False),
            depth=None,
        )
        second = prune_width(model, inputs, rest, check_model(model), verify=verify)
        plan = _joined(first.plan, second.plan, snapshot_names)
        plan.settings = dict(request.settings)
    finally:
        snapshot.restore()
    apply_plan(plan, model, optimizer, ema)
    return dataclasses.replace(
        second,
        plan=plan,
        before=first.before,
        skipped=[*first.skipped, *second.skipped],
        error=_worst(first.error, second.error),
        groups=[*first.groups, *second.groups],
        config=_configured(first.config, second.config, plan),
    )


def _dense_names(model: nn.Module, snapshot: Snapshot, plan: Plan) -> dict[str, str]:
    """Path of every module that is left -> the path that it had."""
    now = {id(module): path for path, module in model.named_modules()}
    snapshot.restore()
    names = {now[id(module)]: path for path, module in model.named_modules() if id(module) in now}
    apply_plan(plan, model)
    return names


def _joined(first: Plan, second: Plan, names: dict[str, str]) -> Plan:
    """One plan that does what two do, the second with the names that the first left behind."""

    def tensor(name: str) -> str:
        path, dot, leaf = name.rpartition(".")
        return names.get(path, path) + dot + leaf

    def keyed(held: dict[str, Any]) -> dict[str, Any]:
        return {tensor(name): value for name, value in held.items()}

    return dataclasses.replace(
        second,
        removed=keyed(second.removed),
        renumbered=keyed(second.renumbered),
        rescaled=[dataclasses.replace(each, name=tensor(each.name)) for each in second.rescaled],
        attributes={
            **first.attributes,
            **{names.get(path, path): held for path, held in second.attributes.items()},
        },
        dropped=first.dropped,
        config={**first.config, **second.config},
        shapes={**first.shapes, **keyed(second.shapes)},
    )


def _worst(*errors: float | None) -> float | None:
    known = [error for error in errors if error is not None]
    return max(known) if known else None


def _configured(
    first: Configured | None, second: Configured | None, plan: Plan
) -> Configured | None:
    if first is None or second is None:
        return second
    reason = second.reason or first.reason
    return Configured(dict(plan.config), first.complete and second.complete, reason)
