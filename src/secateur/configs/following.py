"""Letting a model's configuration say what the model is after surgery.

A library builds a model from its configuration when it loads a folder. So the entries are changed
until the class, built anew without memory, has the tensors that the pruned model has. No entry is
known by its name: those that hold a size that went are tried, and kept if they help.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from secateur.configs.search import Cut, Search, Shapes, shapes_of
from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.plan import Plan
from secateur.surgery.apply import apply_plan
from secateur.surgery.configured import config_of, give_config
from secateur.surgery.transaction import Snapshot

__all__ = ["Configured", "configured"]

# Relative: what the same sums in another order may differ by.
SAME = 1e-5


@dataclasses.dataclass(frozen=True)
class Configured:
    """Whether a model's configuration can say what it is now.

    Attributes
    ----------
    values : dict
        Dotted names of the entries that changed, with their new values.
    complete : bool
        Whether the class builds this very model from it, so that ``save_pretrained`` and
        ``from_pretrained`` keep it.
    reason : str
        What the configuration cannot say, and what to do; empty where it is complete.
    """

    values: dict[str, Any]
    complete: bool
    reason: str = ""


def configured(plan: Plan, model: nn.Module, inputs: Inputs) -> Configured | None:
    """Find entries with which the model's class builds what a plan makes of a model.

    Parameters
    ----------
    plan : Plan
        What is found goes into its ``config`` and ``attributes``.
    model : nn.Module
        Before the plan is applied; it is left as it is.
    inputs : Inputs
        That the model accepts.

    Returns
    -------
    Configured or None
        None for a model without a configuration.
    """
    config = config_of(model)
    if config is None:
        return None
    modules = dict(model.named_modules())
    dense = {
        path: {key: getattr(modules[path], key, None) for key in held}
        for path, held in plan.attributes.items()
    }
    cuts = _cuts(plan, model)
    sizes = [*_sizes(plan, dense), *((length, length - len(gone)) for length, gone in cuts)]
    snapshot = Snapshot(model)
    try:
        apply_plan(plan, model)
        search = Search(type(model), config, shapes_of(model), cuts)
        if search.wrong is None:
            # Before anything was changed the class built the model; a list may be too short now.
            search.values = {}
            search.wrong = search.tried({})
        if search.wrong is None:
            return Configured({}, False, _unbuilt(model))
        plan.config.update(search.improved(sizes))
        reason = _missing(search.best, search.wanted) or _computed(model, plan)
        if not reason:
            assert search.built is not None
            give_config(model, plan.config)
            reason = _attributes(model, search.built, plan, plan.narrow_inputs(inputs))
        if reason:
            # Half the truth would mislead; how many layers there are is true by itself.
            depth = [(length, length - len(gone)) for length, gone in cuts]
            plan.config = dict(Search(type(model), config, search.wanted, cuts).improved(depth))
    finally:
        snapshot.restore()
    return Configured(dict(plan.config), not reason, reason and reason + KEEP)


KEEP = (
    "; its configuration cannot say that: keep it with secateur.save and load it with "
    "secateur.load (allocation='uniform:even' takes as much from every layer)"
)


def _unbuilt(model: nn.Module) -> str:
    return (
        f"{type(model).__name__} cannot be built from its configuration alone; keep it with "
        "secateur.save and load it with secateur.load"
    )


def _sizes(plan: Plan, dense: Mapping[str, dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Sizes that the plan changed, before and after, every pair once."""
    seen: dict[tuple[int, int], None] = {}
    for name, dims in plan.removed.items():
        for dim, indices in dims.items():
            old = plan.shapes[name][dim]
            seen[old, old - len(indices)] = None
    for path, held in dense.items():
        for key, old in held.items():
            new = plan.attributes.get(path, {}).get(key)
            if type(old) is int and type(new) is int and old > new > 0:
                seen[old, new] = None
    yield from seen


def _cuts(plan: Plan, model: nn.Module) -> list[Cut]:
    """Lists that entries are left out of: their length, and the places of those."""
    gone: dict[str, list[str]] = {}
    for path in plan.dropped:
        above, _, key = path.rpartition(".")
        gone.setdefault(above, []).append(key)
    found = []
    for above, keys in gone.items():
        entries_there = [key for key, _ in model.get_submodule(above).named_children()]
        found.append((len(entries_there), sorted(entries_there.index(key) for key in keys)))
    return found


def _missing(found: Shapes, wanted: Shapes) -> str:
    """The first tensor that the class would build another way."""
    for name in wanted:
        if found.get(name) != wanted[name]:
            there = list(found[name]) if name in found else "nothing"
            return f"{name} is {list(wanted[name])} and would be {there}"
    extra = next((name for name in found if name not in wanted), None)
    return f"there is no {extra} any more" if extra else ""


def _computed(model: nn.Module, plan: Plan) -> str:
    """A buffer that the class computes for itself, and of which indices were taken out."""
    for path, module in model.named_modules():
        for key in module._non_persistent_buffers_set:
            name = f"{path}.{key}" if path else key
            if name in plan.removed:
                return f"{name} lost entries, and its class computes it anew"
    return ""


def _attributes(model: nn.Module, built: nn.Module, plan: Plan, inputs: Inputs) -> str:
    """Take over what the class would set, unless the model would compute something else."""
    twins = dict(built.named_modules())
    changes: list[tuple[str, nn.Module, str, Any, Any]] = []
    for path, module in model.named_modules():
        twin = twins.get(path)
        for key, value in _numbers(module):
            due = getattr(twin, key, value) if twin is not None else value
            if type(due) is type(value) and due != value:
                changes.append((path, module, key, value, due))
    if not changes:
        return ""
    before = _outputs(model, inputs)
    for _, module, key, _, due in changes:
        setattr(module, key, due)
    if _alike(before, _outputs(model, inputs)):
        for path, _, key, _, due in changes:
            plan.attributes.setdefault(path, {})[key] = due
        return ""
    for _, module, key, value, _ in changes:
        setattr(module, key, value)
    path, _, key, value, due = changes[0]
    return f"{path}.{key} is {value} and would be {due}"


def _numbers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in vars(module).items():
        if key.startswith("_") or key == "training":
            continue
        listed = value if isinstance(value, (list, tuple)) else [value]
        if listed and all(isinstance(each, (int, float)) for each in listed):
            yield key, value


def _outputs(model: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor] | None:
    try:
        with evaluating(model):
            return dict(named_tensors(run(model, inputs)))
    except Exception:
        return None


def _alike(a: dict[str, torch.Tensor] | None, b: dict[str, torch.Tensor] | None) -> bool:
    if a is None or b is None or a.keys() != b.keys():
        return False
    for name, left in a.items():
        right = b[name]
        if left.shape != right.shape:
            return False
        if left.is_floating_point() and left.numel():
            gap, size = (left - right).abs().max(), left.abs().max()
            if not float(gap) <= SAME * max(float(size), math.ulp(1.0)):
                return False
    return True
