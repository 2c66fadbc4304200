"""Let a criterion change what survives: on a copy, so that only results reach the model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.inputs import Inputs
from secateur.layerwise import Amount, Refit, Survivors
from secateur.observing.reading import Reading
from secateur.plan import Plan
from secateur.request import Request
from secateur.tensors import swap_data

__all__ = ["Refitted", "refit"]


@dataclasses.dataclass
class Refitted:
    """What survives, changed.

    Attributes
    ----------
    values : dict
        Parameter -> its new contents.
    refits : list of Refit
    """

    values: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    refits: list[Refit] = dataclasses.field(default_factory=list)

    def write(self, model: nn.Module) -> None:
        """Exchange the contents of the model's parameters."""
        for name, value in self.values.items():
            swap_data(model.get_parameter(name), value)


def refit(
    model: nn.Module,
    inputs: Inputs,
    plan: Plan,
    request: Request,
    amounts: Mapping[str, Amount] | None = None,
    held: Mapping[str, Tensor] | None = None,
) -> Refitted:
    """Change what survives a plan, as the criterion does it; the model is not changed.

    Parameters
    ----------
    model : nn.Module
        Before the plan is applied.
    plan : Plan
        Its masks are changed where the criterion chooses anew; layers that it gives a bias are
        noted.
    amounts, held : mapping
        See `Survivors`.
    """
    criterion = request.criterion
    if not criterion.updates:
        return Refitted()
    pruned = copy.deepcopy(model)
    if plan.removed:
        plan.apply(pruned)
    reading = Reading(
        model,
        () if request.data is None else request.data,
        inputs,
        request.loss,
        getattr(criterion, "max_batches", None),
        request.seed,
        request.told("fitting what survives"),
    )
    before = {name: parameter.data for name, parameter in pruned.named_parameters()}
    survivors = Survivors(
        pruned, model, reading, dict(plan.masks), dict(amounts or {}), dict(held or {}),
        plan.removed,
    )  # fmt: skip
    refits = criterion.refit(survivors)
    for each in refits:
        if each.mask is not None and each.name in plan.masks:
            plan.masks[each.name] = each.mask.cpu()
    values = {
        name: parameter.data
        for name, parameter in pruned.named_parameters()
        if name not in before or parameter.data.data_ptr() != before[name].data_ptr()
    }
    plan.biased += [name.rpartition(".")[0] for name in values if name not in before]
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"criterion {criterion.name!r} could not fit {name!r}: the result is not finite; "
                "pass more data, or a larger damp"
            )
    return Refitted(values, refits)
