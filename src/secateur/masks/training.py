"""Every optimizer's step, watched: masked gradients before it, masked weights after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from secateur.masks.keeper import KEEPERS, Keeper

__all__ = ["watch"]


def watch() -> None:
    """Watch the steps of all optimizers; called once, when masks are imported."""
    register_optimizer_step_pre_hook(_before)
    register_optimizer_step_post_hook(_after)


def _kept(optimizer: torch.optim.Optimizer) -> Iterator[Keeper]:
    if not KEEPERS:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            keeper = KEEPERS.get(id(parameter))
            if keeper is not None:
                yield keeper


def _before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    # Also where a gradient did not come from a backward pass, or was to be dense until now.
    for keeper in _kept(optimizer):
        keeper.mask_gradient()


def _after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    # Masked gradients are not enough: velocity from before the mask still moves the weight.
    for keeper in _kept(optimizer):
        keeper.rezero()
