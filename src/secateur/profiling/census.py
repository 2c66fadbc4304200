"""One read of a tensor: how many of its entries are not zero, and whether all are finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["census"]

# A working copy of this size stays in the cache of one core.
CHUNK_BYTES = 1 << 17

# Of every dtype: integers of its size, and what infinity looks like as one. A magnitude at or
# above it is infinite or not a number.
_BITS: dict[torch.dtype, tuple[torch.dtype, type[np.unsignedinteger[Any]], int]] = {
    torch.float16: (torch.int16, np.uint16, 0x7C00),
    torch.bfloat16: (torch.int16, np.uint16, 0x7F80),
    torch.float32: (torch.int32, np.uint32, 0x7F800000),
    torch.float64: (torch.int64, np.uint64, 0x7FF0000000000000),
}


def census(tensor: Tensor) -> tuple[int, bool]:
    """Count the entries that are not zero, and tell whether all entries are finite.

    Examples
    --------
    >>> census(torch.tensor([0.0, -0.0, 1.0]))
    (1, True)
    >>> census(torch.tensor([float("nan"), 1.0]))
    (2, False)
    """
    values = tensor.detach()
    if values.is_meta:
        return values.numel(), True
    if values.device.type != "cpu" or values.dtype not in _BITS:
        finite = not values.is_floating_point() or bool(torch.isfinite(values).all())
        return int(torch.count_nonzero(values)), finite
    # As integers NumPy counts several times faster than PyTorch does as numbers.
    signed, unsigned, infinity = _BITS[values.dtype]
    bits = _in_memory_order(values).view(signed).numpy().view(unsigned)
    magnitude = unsigned(np.iinfo(unsigned).max >> 1)
    chunk = CHUNK_BYTES // bits.itemsize
    buffer = np.empty(min(chunk, max(len(bits), 1)), unsigned)
    count = largest = 0
    for start in range(0, len(bits), chunk):
        part = bits[start : start + chunk]
        here = np.bitwise_and(part, magnitude, out=buffer[: len(part)])
        count += int(np.count_nonzero(here))
        largest = max(largest, int(here.max()))
    return count, largest < infinity


def _in_memory_order(values: Tensor) -> Tensor:
    """Every entry once, without a copy where the entries lie side by side in any order."""
    strides = values.stride()
    order = sorted(range(values.dim()), key=lambda dim: -strides[dim])
    return values.permute(order).reshape(math.prod(values.shape))
