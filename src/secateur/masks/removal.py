"""Masks taken off a model, or made final."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.prune import remove as remove_pruning
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from secateur.errors import InputError
from secateur.masks.computed import hook_of, makers, masked_of
from secateur.masks.functions import masked_places, settle
from secateur.masks.keeper import after_load, keepers, kept_here, unlink
from secateur.masks.places import Place, effective
from secateur.parametrizations import remove_parametrizations
from secateur.plan import forget_masks

__all__ = ["finalize", "remove_masks"]


def remove_masks(model: nn.Module) -> None:
    """Take all masks off, and give the masked entries the values that they had.

    Without training in between the model is the dense one again, bit for bit. Of a model that
    was loaded from a file the old values are not known, and the entries start from zero.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.

    Examples
    --------
    >>> import secateur as sc
    >>> net = nn.Sequential(nn.Linear(3, 1))
    >>> dense = net[0].weight.clone()
    >>> sc.apply_masks(net, {"0.weight": torch.tensor([[True, False, True]])})
    >>> remove_masks(net)
    >>> torch.equal(net[0].weight, dense), sc.masks_of(net)
    (True, {})
    """
    for place, _ in list(masked_places(model)):
        if place.tensor is None:
            _unmask_computed(place)
    for keeper in list(keepers(model.modules())):
        keeper.change(torch.ones_like(keeper.gone), restore=True)
    settle(model)
    _drop_keepers(model)
    forget_masks(model, undone=True)


def finalize(model: nn.Module) -> None:
    """Make the zeros plain zeros of plain weights, and let go of everything else about masks.

    From then on the model is any model with zeros in it, which training may fill. A masked weight
    that was computed (weight norm, spectral norm) becomes a parameter that holds its value, since
    what it was computed from cannot hold the zeros; its names in the state dict change to the
    plain ones, and an optimizer has to be made anew for it.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.

    Raises
    ------
    InputError
        Where a hook that is not PyTorch's makes a masked weight. The model is then as it was.

    Examples
    --------
    >>> import secateur as sc
    >>> net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 1)))
    >>> sc.apply_masks(net, {"0.weight": torch.tensor([[True, False, True]])})
    >>> finalize(net)
    >>> list(net.state_dict()), (net[0].weight != 0).tolist(), sc.masks_of(net)
    (['0.bias', '0.weight'], [[True, False, True]], {})
    """
    computed = [place for place, _ in masked_places(model) if place.tensor is None]
    for place in computed:
        for hook in makers(place.module, place.leaf):
            if not isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)):
                raise InputError(
                    f"{place.name!r} is made by a hook of type {type(hook).__name__}, which "
                    "Secateur cannot take off; make the weight a parameter first"
                )
    for module in model.modules():
        after_load(module)
    for place in computed:
        _bake(place)
    _drop_keepers(model)
    forget_masks(model, undone=False)


def _unmask_computed(place: Place) -> None:
    module, leaf = place.module, place.leaf
    if parametrize.is_parametrized(module, leaf):
        parts: Any = module.parametrizations[leaf]  # type: ignore[index]
        del parts[list(parts).index(masked_of(module, leaf))]
        return
    hook = hook_of(module, leaf)
    assert hook is not None
    hooks = module._forward_pre_hooks
    for key in [key for key, value in hooks.items() if value is hook]:
        del hooks[key]
    delattr(module, hook.buffer)
    effective(module, leaf)


def _bake(place: Place) -> None:
    module, leaf = place.module, place.leaf
    weight = effective(module, leaf).clone()
    if parametrize.is_parametrized(module, leaf):
        for part in module.parametrizations[leaf].modules():  # type: ignore[union-attr, index]
            # What moves when it is evaluated in training must not move now.
            part.eval()
        remove_parametrizations(module, leaf, leave_parametrized=True)
    else:
        _unmask_computed(place)
        for hook in makers(module, leaf):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, leaf)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, leaf)
            else:
                remove_pruning(module, leaf)
    getattr(module, leaf).data = weight


def _drop_keepers(model: nn.Module) -> None:
    for keeper in list(keepers(model.modules())):
        keeper.detach()
    for module in model.modules():
        if kept_here(module):
            unlink(module)
