"""What of a model a file holds: parameters and persistent buffers, and the plans behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from secateur.plan import Plan

__all__ = ["NOW", "cuts", "now", "slots_of", "tied"]

# Marks a plan of nothing but the masks that were on when a model was saved.
NOW = {"masks": "as saved"}


def slots_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer under every one of its names."""
    transient = {
        f"{path}.{key}" if path else key
        for path, module in model.named_modules(remove_duplicate=False)
        for key in module._non_persistent_buffers_set
    }
    slots: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name not in transient:
            slots[name] = buffer
    return slots


def tied(slots: Mapping[str, Tensor]) -> dict[str, str]:
    """Another name of a tensor -> its first."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in slots.items():
        if first.setdefault(id(tensor), name) != name:
            found[name] = first[id(tensor)]
    return found


def cuts(plans: Iterable[Plan]) -> list[Plan]:
    """Plans without their masks."""
    return [dataclasses.replace(plan, masks={}) for plan in plans if plan.settings != NOW]


def now(masks: Mapping[str, Tensor]) -> list[Plan]:
    """The plan of these masks; none where there are none."""
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    return [Plan(masks=dict(masks), shapes=shapes, settings=dict(NOW))] if masks else []
