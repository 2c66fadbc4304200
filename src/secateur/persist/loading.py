"""Loading: plans replayed on a freshly built dense model, and tensors copied in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from secateur.container import Header, is_dense, read
from secateur.errors import FileFormatError, InputError, PlanError, SecateurError, suggestion
from secateur.masks import forget_values, put_masks, remove_masks
from secateur.packing import Packed
from secateur.persist.slots import NOW, cuts, now, slots_of, tied
from secateur.plan import Plan, history, rewrite
from secateur.surgery.composed import composed_masks
from secateur.surgery.transaction import transaction
from secateur.tensors import swap_data

__all__ = ["load"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def load(model: AnyModule, path: str | os.PathLike[str], *, masked: bool = True) -> AnyModule:
    """Load a saved model into a freshly built dense model.

    The plans in the file are replayed on the model, which makes it as small as the saved one; then
    the tensors are copied in, in the dtype that they were saved in and on the device where the
    model is. Gradients are dropped. A model that was already cut by the same plans, such as the
    one that was saved, can be loaded into as well.

    Parameters
    ----------
    model : torch.nn.Module
        What the dense model's constructor returns.
    path : path-like
        A file that `save` wrote, in either format.
    masked : bool, default True
        Put the masks on that were on the model when it was saved. Without them zeros are weights
        like any other, which training moves.

    Returns
    -------
    torch.nn.Module
        The same object, changed in place. Buffers that are not stored (``persistent=False``) keep
        the values of the model that was passed, cut by the plans.

    Raises
    ------
    FileFormatError
        Where the file is missing, truncated, changed since it was written, or not one of these.
    PlanError
        Where the file is for another model.

    In either case the model is left as it was, bit for bit.

    Examples
    --------
    >>> import tempfile
    >>> from secateur import save
    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> Plan(removed={"0.weight": {0: [1]}, "0.bias": {0: [1]}},
    ...      shapes={"0.weight": [2, 3], "0.bias": [2]},
    ...      attributes={"0": {"out_features": 1}}).apply(model)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(model, f"{folder}/small.safetensors")
    ...     loaded = load(nn.Sequential(nn.Linear(3, 2)), path)
    >>> loaded[0], torch.equal(loaded[0].weight, model[0].weight)
    (Linear(in_features=3, out_features=1, bias=True), True)
    """
    path = Path(path)
    header, tensors = read(path)
    plans = _plans(path, header)
    if any(tensor.is_meta for tensor in slots_of(model).values()):
        raise InputError("the model is on the meta device; build it with real tensors to load into")
    try:
        with transaction(model):
            # Layers that are left out take names along, and biases bring some: compared later.
            renamed = any(plan.dropped or plan.biased for plan in plans)
            if renamed:
                _replay(path, cuts(plans), model)
            _check_names(path, header, tensors, model)
            _tie(path, header, model)
            plans = _with_masks(plans, header, tensors) if masked else cuts(plans)
            _replay(path, plans, model)
            _copy_in(path, header, tensors, model)
    except SecateurError:
        raise
    except Exception as error:  # a file of any other model, told as that
        raise PlanError(f"{path} does not fit this model: {error}") from error
    return model


def _plans(path: Path, header: Header) -> list[Plan]:
    try:
        return [Plan.from_json(text) for text in header.plans]
    except (PlanError, TypeError) as error:
        raise FileFormatError(f"{path} holds a malformed plan: {error}") from error


def _with_masks(
    plans: list[Plan], header: Header, tensors: Mapping[str, Tensor | Packed]
) -> list[Plan]:
    """Plans that put on what is stored as the pattern of a tensor, too."""
    patterns = {}
    for name in header.masked:
        packed = tensors[name]
        assert isinstance(packed, Packed)
        patterns[name] = packed.pattern()
    if not patterns:
        return plans
    others = {name: mask for p in plans if p.settings == NOW for name, mask in p.masks.items()}
    return [*cuts(plans), *now(others | patterns)]


def _other_model(path: Path, why: str) -> NoReturn:
    raise PlanError(f"{path} is for another model: {why}")


def _check_names(
    path: Path, header: Header, tensors: Mapping[str, Tensor | Packed], model: nn.Module
) -> None:
    slots, stored = slots_of(model), {*tensors, *header.tied}
    for name in sorted(stored - slots.keys()):
        _other_model(path, f"this one has no {name!r}{suggestion(name, slots)}")
    for name in sorted(slots.keys() - stored):
        _other_model(path, f"the file has no {name!r}{suggestion(name, stored)}")
    for name, tensor in tensors.items():
        # Cuts make tensors smaller: nothing larger is unpacked than the model has room for.
        if isinstance(tensor, Packed) and prod(tensor.shape) > slots[name].numel():
            _other_model(
                path,
                f"{name!r} is {list(slots[name].shape)} here and {list(tensor.shape)} there",
            )


def _tie(path: Path, header: Header, model: nn.Module) -> None:
    """Tie what the saved model tied, before the plans, which name a tied tensor once."""
    slots = slots_of(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    for alias, name in header.tied.items():
        if slots[alias] is slots[name]:
            continue
        if slots[alias].shape != slots[name].shape:
            _other_model(path, f"{alias!r} and {name!r} are tied there and differ in shape here")
        owner, _, key = alias.rpartition(".")
        module = modules[owner]
        table: dict[str, Any] = module._parameters if key in module._parameters else module._buffers
        table[key] = slots[name]
    for alias, name in tied(slots_of(model)).items():
        if header.tied.get(alias) != name:
            _other_model(path, f"{alias!r} and {name!r} are tied here and stored apart there")


def _replay(path: Path, plans: list[Plan], model: nn.Module) -> None:
    done = cuts(history(model))
    if cuts(plans)[: len(done)] != done:
        raise PlanError(
            f"{path} does not continue the plans that this model was pruned by; "
            "load it into a freshly built dense model"
        )
    for plan in cuts(plans)[len(done) :] if done else plans:
        try:
            plan.apply(model)
        except PlanError as error:
            raise PlanError(f"{path} does not fit this model: {error}") from error
    if done:
        # Which masks are on is for the file alone to say.
        remove_masks(model)
        put_masks(model, composed_masks(plans, model) or {})
    # What the model held there until now is not what pruning took out.
    forget_values(model)
    rewrite(model, plans)


def _copy_in(
    path: Path, header: Header, tensors: Mapping[str, Tensor | Packed], model: nn.Module
) -> None:
    slots = slots_of(model)
    for name, stored in tensors.items():
        target = slots[name]
        if target.shape != stored.shape:
            _other_model(
                path, f"{name!r} is {list(target.shape)} here and {list(stored.shape)} there"
            )
        if isinstance(stored, Packed):
            stored = _unpacked(path, name, stored)
        if name in header.strides:
            shape, strides = tuple(stored.shape), tuple(header.strides[name])
            if len(strides) != len(shape) or not is_dense(shape, strides):
                raise FileFormatError(f"{path} gives {name!r} the impossible strides {strides}")
            stored = torch.empty_strided(shape, strides, dtype=stored.dtype).copy_(stored)
        _assign(target, stored.to(target.device), name not in header.frozen)
    for name, buffer in model.named_buffers():
        if name in header.unsaved:
            dtype = getattr(torch, header.unsaved[name], None)
            if isinstance(dtype, torch.dtype) and dtype != buffer.dtype:
                swap_data(buffer, buffer.data.to(dtype))
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()


def _unpacked(path: Path, name: str, stored: Packed) -> Tensor:
    try:
        return stored.unpack()
    except FileFormatError as error:
        raise FileFormatError(f"{path} holds {name!r} in a way that cannot be: {error}") from error


def _assign(target: Tensor, data: Tensor, trainable: bool) -> None:
    if isinstance(target, nn.Parameter):
        target.grad = None
        target.requires_grad_(False)
        swap_data(target, data)
        target.requires_grad_(trainable)
    else:
        swap_data(target, data)
