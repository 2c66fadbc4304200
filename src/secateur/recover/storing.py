"""Nested values with tensors in them, as JSON and a table of tensors; nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.container import is_dense
from secateur.errors import FileFormatError, InputError

__all__ = ["decode", "encode"]

PLAIN = (str, int, float, bool, type(None))


def encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON values; its tensors go into a table, under names that begin with `name`.

    Parameters
    ----------
    value : Any
        Dicts with keys of any of the plain kinds, lists, tuples, numbers, texts, NumPy arrays
        and tensors.
    name : str
    tensors : dict
        Copies are added, contiguous and on the CPU.

    Raises
    ------
    InputError
        For anything else.

    Examples
    --------
    >>> tensors = {}
    >>> text = encode({0: (1.5, torch.ones(2))}, "state", tensors)
    >>> list(tensors), decode(text, tensors)
    (['state/0/1'], {0: (1.5, tensor([1., 1.]))})
    """
    if isinstance(value, Tensor):
        return _stored(value, name, tensors)
    if isinstance(value, Mapping):
        items = [
            [encode(key, f"{name}/key", tensors), encode(item, f"{name}/{key}", tensors)]
            for key, item in value.items()
        ]
        return {"dict": items}
    if isinstance(value, (tuple, list)):
        listed = [encode(item, f"{name}/{at}", tensors) for at, item in enumerate(value)]
        return {"tuple": listed} if isinstance(value, tuple) else listed
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in PLAIN:
        return value
    raise InputError(
        f"{name} holds a {type(value).__name__}, which a checkpoint cannot hold without pickle; "
        "train without checkpoint="
    )


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of `encode`.

    Raises
    ------
    FileFormatError
        Where the value is none that `encode` made.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {decode(key, tensors): decode(item, tensors) for key, item in value["dict"]}
    if "tuple" in value:
        return tuple(decode(item, tensors) for item in value["tuple"])
    if "array" in value:
        return np.array(value["array"], dtype=np.dtype(value["dtype"]))
    if "tensor" not in value:
        raise FileFormatError(f"a checkpoint holds an unknown kind of value ({list(value)})")
    tensor = tensors[value["tensor"]]
    if value.get("complex"):
        tensor = torch.view_as_complex(tensor)
    if "strides" in value:
        shape, strides = tuple(tensor.shape), tuple(value["strides"])
        tensor = torch.empty_strided(shape, strides, dtype=tensor.dtype).copy_(tensor)
    return tensor


def _stored(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        raise InputError(
            f"{name} is not a plain dense tensor (device {tensor.device}, layout {tensor.layout}, "
            f"dtype {tensor.dtype}), which a checkpoint cannot hold; train without checkpoint="
        )
    tensor = tensor.detach()
    entry: dict[str, Any] = {"tensor": name}
    if not tensor.is_contiguous() and is_dense(tuple(tensor.shape), tensor.stride()):
        # Layouts choose kernels, and kernels differ in their roundings.
        entry["strides"] = list(tensor.stride())
    if tensor.is_complex():
        entry["complex"] = True
        tensor = torch.view_as_real(tensor.resolve_conj())
    tensors[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
    return entry
