"""Masks of weights that a module computes from other tensors, such as weight norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["Masked", "MaskedAfterHook", "hook_of", "makers", "mask_computed", "masked_of"]


class Masked(nn.Module):
    """A parametrisation that zeroes entries of whatever the ones before it make.

    Parameters
    ----------
    gone : Tensor of bool
        True where the weight is zero. Not part of the state dict, whose keys stay those of the
        dense model. Held as bytes, since averages of buffers subtract them, which bools refuse.
    """

    gone: Tensor

    def __init__(self, gone: Tensor) -> None:
        super().__init__()
        self.register_buffer("gone", gone.to(torch.uint8), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return _without(weight, self.gone)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class MaskedAfterHook:
    """A forward pre-hook that zeroes entries of a weight that an earlier hook has made.

    The mask is a buffer of the module, so that it is moved and copied with it.
    """

    def __init__(self, leaf: str) -> None:
        self.leaf = leaf
        self.buffer = f"_secateur_gone_{leaf}"

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        weight = getattr(module, self.leaf)
        setattr(module, self.leaf, _without(weight, getattr(module, self.buffer)))


def _without(weight: Tensor, gone: Tensor) -> Tensor:
    """Zeros where entries are gone; laid out as the weight is, whatever the mask's layout."""
    return weight.clone().masked_fill_(gone.bool(), 0)


def masked_of(module: nn.Module, leaf: str) -> Masked | None:
    """The masking parametrisation of a parametrised weight, if it has one."""
    parts = module.parametrizations[leaf]  # type: ignore[index]
    return next((part for part in parts if isinstance(part, Masked)), None)


def hook_of(module: nn.Module, leaf: str) -> MaskedAfterHook | None:
    """The masking hook of a weight that a hook makes, if it has one."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, MaskedAfterHook) and hook.leaf == leaf:
            return hook
    return None


def makers(module: nn.Module, leaf: str) -> list[Any]:
    """The forward pre-hooks that make a weight, as PyTorch's own say which they make."""
    return [
        hook
        for hook in module._forward_pre_hooks.values()
        if leaf in (getattr(hook, "name", None), getattr(hook, "_tensor_name", None))
    ]


def mask_computed(module: nn.Module, leaf: str, gone: Tensor) -> None:
    """Zero entries of a weight that is computed, beside those that are zero already."""
    if parametrize.is_parametrized(module, leaf):
        part = masked_of(module, leaf)
        if part is None:
            # Not register_parametrization: it evaluates the others, and spectral norm's
            # estimate moves each time that it is evaluated.
            part = Masked(gone)
            part.train(module.training)
            module.parametrizations[leaf].append(part)  # type: ignore[union-attr, index]
        else:
            part.gone = part.gone | gone
        return
    hook = hook_of(module, leaf)
    if hook is None:
        hook = MaskedAfterHook(leaf)
        module.register_buffer(hook.buffer, gone.to(torch.uint8), persistent=False)
        module.register_forward_pre_hook(hook)
    else:
        setattr(module, hook.buffer, getattr(module, hook.buffer) | gone)
    with torch.no_grad():
        hook(module, ())
