"""Names in a model's history, once tensors have others than those that they were pruned under."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from secateur.plan import history, rewrite

__all__ = ["rename"]


def rename(model: nn.Module, named: Callable[[str], str | None]) -> None:
    """Give the tensors of the model's history the names that they have now.

    Parameters
    ----------
    model : torch.nn.Module
    named : callable
        Name of a tensor -> its new name, or None for one that is gone.
    """

    def kept(held: dict[str, Any]) -> dict[str, Any]:
        return {new: value for name, value in held.items() if (new := named(name)) is not None}

    plans = [
        dataclasses.replace(
            plan,
            removed=kept(plan.removed),
            masks=kept(plan.masks),
            renumbered=kept(plan.renumbered),
            shapes=kept(plan.shapes),
            rescaled=[
                dataclasses.replace(entry, name=new)
                for entry in plan.rescaled
                if (new := named(entry.name)) is not None
            ],
        )
        for plan in history(model)
    ]
    if plans:
        rewrite(model, plans)
