"""Products and convolutions whose results are zeros of the right shape, never computed.

A recorded pass is read for its operations and sizes. As long as no value that was left out
decides anything (an index, a branch), leaving the expensive ones out changes nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["Hollow", "ValuesNeeded"]

# Below this many multiply-accumulates the operation itself costs less than leaving it out.
WORTHWHILE = 1 << 20

# These read a shape and no values.
FACTORIES = frozenset(
    f"aten::{name}"
    for name in "new_zeros new_ones new_empty new_full zeros_like ones_like empty_like full_like "
    "rand_like randn_like new_empty_strided".split()
)

# These carry integers and truth values on, entry by entry; others may take them for indices.
CARRYING = frozenset(
    f"aten::{name}"
    for name in "add sub mul div where masked_fill eq ne lt le gt ge maximum minimum clamp abs neg "
    "bitwise_and bitwise_or bitwise_xor bitwise_not logical_and logical_or logical_xor logical_not "
    "_to_copy clone detach alias copy view _unsafe_view unsqueeze squeeze expand permute transpose "
    "t slice select split split_with_sizes unbind cat stack flatten repeat sum any all".split()
)


class ValuesNeeded(BaseException):
    """The model's code looks at a value that was never computed.

    Not an Exception: the model's own handlers must not swallow it.
    """


class Hollow:
    """Stands in for the expensive operations, and knows which memory holds no real values.

    Parameters
    ----------
    trusting : bool, default False
        Do not watch what becomes of the stand-ins: it is known that nothing depends on them.
    """

    def __init__(self, *, trusting: bool = False) -> None:
        self.trusting = trusting
        # By address; an entry counts while its memory lives, for addresses are used again.
        self._unreal: dict[int, StorageWeakRef] = {}

    def result(self, op: str, args: tuple[Any, ...]) -> Tensor | None:
        """A stand-in for the operation's result; None where it has to run."""
        shape_of = SHAPES.get(op)
        shape = shape_of(*args) if shape_of is not None else None
        if shape is None:
            return None
        made = torch.zeros(shape, dtype=args[0].dtype)
        self._note(made)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._unreal[storage.data_ptr()] = StorageWeakRef(storage)

    def _is_unreal(self, tensor: Tensor) -> bool:
        if tensor.layout != torch.strided:
            return False
        entry = self._unreal.get(tensor.untyped_storage().data_ptr())
        return entry is not None and not entry.expired()

    def follow(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what an operation made out of values that were never computed.

        Raises
        ------
        ValuesNeeded
            When it returned a number to the code, or read integers that may be indices.
        """
        if self.trusting or not self._unreal or op in FACTORIES:
            return
        unreal = list(filter(self._is_unreal, _tensors((*args, *kwargs.values()))))
        if not unreal:
            return
        numbers = all(t.dtype.is_floating_point or t.dtype.is_complex for t in unreal)
        if isinstance(result, (bool, int, float, complex)) or not (numbers or op in CARRYING):
            raise ValuesNeeded
        for tensor in _tensors((result,)):
            if tensor.layout == torch.strided and tensor.numel():
                self._note(tensor)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _usable(*tensors: Any) -> bool:
    first = tensors[0]
    return all(
        isinstance(t, Tensor)
        and t.device.type == "cpu"
        and t.dtype == first.dtype
        and t.dtype.is_floating_point
        and t.layout == torch.strided
        for t in tensors
    )


def _mm(a: Any, b: Any, *rest: Any) -> tuple[int, ...] | None:
    if not _usable(a, b) or a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        return None
    shape = (*a.shape[:-1], b.shape[-1])
    return shape if math.prod(shape) * a.shape[-1] >= WORTHWHILE else None


def _addmm(bias: Any, a: Any, b: Any, *rest: Any) -> tuple[int, ...] | None:
    shape = _mm(a, b)
    if shape is None or not _usable(bias, a):
        return None
    try:
        return shape if torch.broadcast_shapes(bias.shape, shape) == shape else None
    except RuntimeError:
        return None


def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> tuple[int, ...] | None:
    if not _usable(x, weight) or not (x.is_contiguous() and weight.is_contiguous()):
        return None
    dims = x.dim() - 2
    read, made = weight.shape[1] * groups, weight.shape[0]
    if transposed:
        read, made = weight.shape[0], weight.shape[1] * groups
    fits = x.shape[1] == read and made % groups == 0 and read % groups == 0
    if weight.dim() != x.dim() or not fits or (bias is not None and tuple(bias.shape) != (made,)):
        return None
    sizes = []
    for at in range(dims):
        s, p, d = stride[at % len(stride)], padding[at % len(padding)], dilation[at % len(dilation)]
        span = d * (weight.shape[2 + at] - 1) + 1
        if transposed:
            extra = output_padding[at % len(output_padding)]
            sizes.append((x.shape[2 + at] - 1) * s - 2 * p + span + extra)
        else:
            sizes.append((x.shape[2 + at] + 2 * p - span) // s + 1)
    if min(sizes, default=1) < 1:
        return None
    shape = (x.shape[0], made, *sizes)
    work = math.prod(x.shape if transposed else shape) * weight[0].numel()
    return shape if work >= WORTHWHILE else None


SHAPES: dict[str, Callable[..., tuple[int, ...] | None]] = {
    "aten::mm": _mm,
    "aten::bmm": _mm,
    "aten::addmm": _addmm,
    "aten::baddbmm": _addmm,
    "aten::convolution": _convolution,
}
