"""Save a pruned model and load it back into the dense model's constructor; never pickle.

One safetensors file holds the tensors and, in its metadata, the plans that made them so small.
Loading replays the plans on a freshly built dense model and then copies the tensors in.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from secateur.container import Header, is_dense, read, write
from secateur.errors import FileFormatError, InputError, PlanError, SecateurError, suggestion
from secateur.masks import forget_values, masks_of, put_masks, remove_masks
from secateur.plan import Plan, history, rewrite
from secateur.surgery.composed import composed_masks
from secateur.surgery.transaction import transaction
from secateur.tensors import swap_data

__all__ = ["load", "save"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# Marks a plan of nothing but the masks that were on when a model was saved.
NOW = {"masks": "as saved"}


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Save a model, pruned or not, in one safetensors file.

    The file holds every parameter and persistent buffer in its own dtype, tied tensors once, and
    in its metadata the plans that were applied to the model, which parameters are frozen, and a
    checksum. It appears whole or not at all.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is.
    path : path-like
        Where to write; its folder is created.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        Where the model holds something that is not a plain tensor: uninitialised or on the meta
        device, sparse or quantised, or a module's extra state.
    WriteError
        Where there is no room for the file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(nn.Linear(3, 2), f"{folder}/small.safetensors")
    ...     load(nn.Linear(3, 2), path)
    Linear(in_features=3, out_features=2, bias=True)
    """
    slots = _slots(model)
    _check_storable(model, slots)
    header = Header(plans=[plan.to_json() for plan in _plans(model)], tied=_tied(slots))
    tensors: dict[str, Tensor] = {}
    for name, tensor in slots.items():
        if name in header.tied:
            continue
        if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
            header.frozen.append(name)
        if tensor.is_complex():
            header.complex.append(name)
        if not tensor.is_contiguous() and is_dense(tuple(tensor.shape), tensor.stride()):
            header.strides[name] = list(tensor.stride())
        tensors[name] = _storable(tensor.detach())
    header.unsaved = {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in model.named_buffers()
        if name not in slots
    }
    write(path, header, tensors)
    return Path(path)


def load(model: AnyModule, path: str | os.PathLike[str]) -> AnyModule:
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
        A file that `save` wrote.

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
    try:
        plans = [Plan.from_json(text) for text in header.plans]
    except (PlanError, TypeError) as error:
        raise FileFormatError(f"{path} holds a malformed plan: {error}") from error
    if any(tensor.is_meta for tensor in _slots(model).values()):
        raise InputError("the model is on the meta device; build it with real tensors to load into")
    try:
        with transaction(model):
            _check_names(path, header, tensors, model)
            _tie(path, header, model)
            _replay(path, plans, model)
            _copy_in(path, header, tensors, model)
    except SecateurError:
        raise
    except Exception as error:  # a file of any other model, told as that
        raise PlanError(f"{path} does not fit this model: {error}") from error
    return model


def _plans(model: nn.Module) -> list[Plan]:
    """The model's history, with a last plan of the masks as they are where it does not tell.

    Masks may have moved since they were put on, be off again, or be on a part of the model only.
    """
    plans, masks = history(model), {name: mask.cpu() for name, mask in masks_of(model).items()}
    told = composed_masks(plans, model)
    if told is not None and told.keys() == masks.keys():
        moved = [name for name, mask in masks.items() if not torch.equal(told[name], mask)]
        if not moved:
            return plans
    plans = _cuts(plans)
    if masks:
        shapes = {name: list(mask.shape) for name, mask in masks.items()}
        plans.append(Plan(masks=masks, shapes=shapes, settings=NOW))
    return plans


def _cuts(plans: list[Plan]) -> list[Plan]:
    """Plans without their masks."""
    return [dataclasses.replace(plan, masks={}) for plan in plans if plan.settings != NOW]


def _slots(model: nn.Module) -> dict[str, Tensor]:
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


def _tied(slots: Mapping[str, Tensor]) -> dict[str, str]:
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in slots.items():
        if first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def _check_storable(model: nn.Module, slots: Mapping[str, Tensor]) -> None:
    for name, tensor in slots.items():
        if nn.parameter.is_lazy(tensor):
            raise InputError(f"{name!r} is not initialised yet; run the model once before saving")
        if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
            raise InputError(
                f"{name!r} is not a plain dense tensor (device {tensor.device}, layout "
                f"{tensor.layout}, dtype {tensor.dtype}); only those can be saved"
            )
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise InputError(
                f"module {name!r} ({type(module).__name__}) has extra state of its own, "
                "which cannot be saved without pickle"
            )


def _storable(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


def _other_model(path: Path, why: str) -> NoReturn:
    raise PlanError(f"{path} is for another model: {why}")


def _check_names(
    path: Path, header: Header, tensors: Mapping[str, Tensor], model: nn.Module
) -> None:
    slots, stored = _slots(model), {*tensors, *header.tied}
    for name in sorted(stored - slots.keys()):
        _other_model(path, f"this one has no {name!r}{suggestion(name, slots)}")
    for name in sorted(slots.keys() - stored):
        _other_model(path, f"the file has no {name!r}{suggestion(name, stored)}")


def _tie(path: Path, header: Header, model: nn.Module) -> None:
    """Tie what the saved model tied, before the plans, which name a tied tensor once."""
    slots = _slots(model)
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
    for alias, name in _tied(_slots(model)).items():
        if header.tied.get(alias) != name:
            _other_model(path, f"{alias!r} and {name!r} are tied here and stored apart there")


def _replay(path: Path, plans: list[Plan], model: nn.Module) -> None:
    done = _cuts(history(model))
    if _cuts(plans)[: len(done)] != done:
        raise PlanError(
            f"{path} does not continue the plans that this model was pruned by; "
            "load it into a freshly built dense model"
        )
    for plan in _cuts(plans)[len(done) :] if done else plans:
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


def _copy_in(path: Path, header: Header, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    slots = _slots(model)
    for name, stored in tensors.items():
        target = slots[name]
        if target.shape != stored.shape:
            _other_model(
                path, f"{name!r} is {list(target.shape)} here and {list(stored.shape)} there"
            )
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


def _assign(target: Tensor, data: Tensor, trainable: bool) -> None:
    if isinstance(target, nn.Parameter):
        target.grad = None
        target.requires_grad_(False)
        swap_data(target, data)
        target.requires_grad_(trainable)
    else:
        swap_data(target, data)
