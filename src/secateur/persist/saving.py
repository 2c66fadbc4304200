"""Saving: tensors as they are, or without their zeros, with the plans that made them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.container import Header, is_dense, write
from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.masks import masks_of
from secateur.packing import Packed, pack
from secateur.persist.slots import cuts, now, slots_of, tied
from secateur.plan import Plan, history
from secateur.surgery.composed import composed_masks
from secateur.tensors import taken

__all__ = ["save"]

FORMATS = ("dense", "sparse")


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    format: Literal["dense", "sparse"] = "dense",
    huffman: bool = False,
) -> Path:
    """Save a model, pruned or not, in one safetensors file.

    The file holds every parameter and persistent buffer in its own dtype, tied tensors once, and
    in its metadata the plans that were applied to the model, which parameters are frozen, and a
    checksum. It appears whole or not at all, and the same model gives the same bytes.

    With ``format="sparse"`` every tensor is stored in the layout that takes the fewest bytes: as it
    is, or only what is not zero, found by a bitmask, by gaps, as N:M or as blocks; values that are
    few different ones (`secateur.share_weights`, or weights on the grid of a quantiser) as codes of
    a table. What is loaded is the same, but for zeros of negative sign, which may lose it.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is.
    path : path-like
        Where to write; its folder is created.
    format : {"dense", "sparse"}
        Whether zeros are stored.
    huffman : bool, default False
        With ``"sparse"``, Huffman-code indices and codes where that is smaller; loading takes
        longer.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        Where the model holds something that is not a plain tensor: uninitialised or on the meta
        device, sparse or quantised, or a module's extra state; or ``huffman`` without
        ``format="sparse"``.
    UnknownNameError
        For an unknown format.
    WriteError
        Where there is no room for the file.

    Examples
    --------
    >>> import tempfile
    >>> from secateur import apply_masks, load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(nn.Linear(3, 2), f"{folder}/small.safetensors")
    ...     load(nn.Linear(3, 2), path)
    Linear(in_features=3, out_features=2, bias=True)

    Nine of ten weights are zero:

    >>> layer = nn.Linear(1000, 100)
    >>> apply_masks(layer, {"weight": torch.arange(100_000).reshape(100, 1000) % 10 == 0})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sizes = [save(layer, f"{folder}/{format}", format=format).stat().st_size
    ...              for format in ("dense", "sparse")]
    >>> sizes[1] / sizes[0]
    0.10
    """
    if format not in FORMATS:
        raise UnknownNameError(f"unknown format {format!r}{suggestion(format, FORMATS)}")
    if huffman and format != "sparse":
        raise InputError('huffman=True is for format="sparse"')
    slots = slots_of(model)
    _check_storable(model, slots)
    header = Header(tied=tied(slots))
    tensors: dict[str, Tensor | Packed] = {}
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
    plans = _plans(model)
    if format == "sparse":
        masks = {name: mask.cpu() for name, mask in masks_of(model).items()}
        header.masked = _pack(tensors, header, masks, huffman)
        if header.masked:
            others = {name: mask for name, mask in masks.items() if name not in header.masked}
            plans = [*cuts(plans), *now(others)]
    header.plans = [plan.to_json() for plan in plans]
    write(path, header, tensors)
    return Path(path)


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
    return [*cuts(plans), *now(masks)]


def _pack(
    tensors: dict[str, Tensor | Packed], header: Header, masks: Mapping[str, Tensor], huffman: bool
) -> list[str]:
    """Pack what is smaller so; the names of those whose mask can be told from it."""
    told = []
    for name, tensor in list(tensors.items()):
        # A part's own name must be nobody else's.
        taken_name = any(other.startswith(f"{name}:") for other in tensors)
        if not isinstance(tensor, Tensor) or taken_name or name in header.complex:
            continue
        mask = masks.get(name)
        if mask is not None and bool(taken(tensor, ~mask).any()):
            mask = None
        packed = pack(tensor, mask, deflated=huffman)
        if packed is not None:
            tensors[name] = packed
            told += [name] if mask is not None else []
    return told


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
