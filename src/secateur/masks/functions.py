"""Masks on a model: put on, and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.masks.computed import mask_computed
from secateur.masks.keeper import Keeper, after_load, keeper_of, kept_here, link
from secateur.masks.places import Place, effective, mask_at, places
from secateur.plan import Plan, remember

__all__ = ["apply_masks", "masked_places", "masks_of", "put_masks", "settle"]


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks that are on a model.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    dict
        Name of the weight -> bool mask of its shape and on its device, True where kept. A tied
        weight comes once, under its first name; a parametrised one as ``module.weight``.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 1))
    >>> apply_masks(net, {"0.weight": torch.tensor([[True, False, True]])})
    >>> masks_of(net)
    {'0.weight': tensor([[ True, False,  True]])}
    """
    return {place.name: mask for place, mask in masked_places(model)}


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Make entries of weights zero, and keep them zero through training.

    Names in the state dict, shapes and the forward pass stay as they are; the weights just hold
    zeros. Those survive any optimizer of PyTorch (also momentum from before the mask, and weight
    decay), ``load_state_dict``, ``copy.deepcopy``, ``torch.save`` of the whole model, moves to
    other devices and dtypes, and `torch.optim.swa_utils.AveragedModel`. What writes into weights
    by other ways can bring entries back; ``apply_masks(model, {})`` zeroes them again.

    Masks compose: an entry stays only if every mask that was applied keeps it.

    The entries that are taken out are remembered, and nothing else is, until `remove_masks` or
    `finalize`. Where a parametrisation or a hook computes a weight (weight norm, spectral norm),
    the result is masked and what it is computed from stays as it is.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    masks : mapping
        Name of a parameter, buffer or parametrised weight -> bool mask of its shape, True where
        kept.

    Raises
    ------
    UnknownNameError
        For a name that is not in the model.
    InputError
        For a mask that is not bool or has another shape. The model is then as it was.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 1))
    >>> apply_masks(net, {"0.weight": torch.tensor([[True, False, True]])})
    >>> apply_masks(net, {"0.weight": torch.tensor([[True, True, False]])})
    >>> (net[0].weight != 0).tolist()
    [[True, False, False]]
    """
    shapes = put_masks(model, masks)
    for module in model.modules():
        after_load(module)
    if masks:
        plan = Plan(shapes=shapes, settings={"masks": "apply_masks"})
        plan.masks = {name: mask.detach().cpu().clone() for name, mask in masks.items()}
        remember(model, plan)


def put_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Mask weights without adding to the model's history; the shapes of what is masked."""
    known = {place.name: place for place in places(model)} if masks else {}
    shapes = {name: list(_checked(known, name, mask).shape) for name, mask in masks.items()}
    owners: dict[int, list[Place]] = {}
    for place in known.values():
        owners.setdefault(id(place.tensor), []).append(place)
    for name, mask in masks.items():
        place = known[name]
        if place.tensor is None:
            device = effective(place.module, place.leaf).device
            mask_computed(place.module, place.leaf, ~mask.to(device))
            continue
        keeper = keeper_of(place.tensor)
        if keeper is None:
            keeper = Keeper(place.tensor, mask)
        else:
            keeper.change(keeper.mask & mask.to(place.tensor.device))
        for owner in owners[id(place.tensor)]:
            if kept_here(owner.module).get(owner.leaf) is not keeper:
                link(owner.module, owner.leaf, keeper)
    if masks:
        settle(model)
    return shapes


def settle(model: nn.Module) -> None:
    """Put the weights of recurrent layers side by side again, as their kernels want them."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()


def masked_places(model: nn.Module) -> Iterator[tuple[Place, Tensor]]:
    """Every weight that is masked, once, with its mask."""
    seen = set()
    for place in places(model):
        if place.key not in seen:
            seen.add(place.key)
            mask = mask_at(place.module, place.leaf)
            if mask is not None:
                yield place, mask


def _checked(known: Mapping[str, Place], name: str, mask: Tensor) -> Tensor:
    if name not in known:
        raise UnknownNameError(f"the model has no weight {name!r}{suggestion(name, known)}")
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(
            f"the mask for {name!r} must be a bool tensor, True where kept, not {kind}"
        )
    place = known[name]
    if tuple(mask.shape) != place.shape:
        raise InputError(
            f"the mask for {name!r} is {list(mask.shape)}, and the weight is {list(place.shape)}"
        )
    if mask.is_meta or (place.tensor is not None and place.tensor.is_meta):
        raise InputError(f"{name!r} is on the meta device; masks need real tensors")
    return mask
