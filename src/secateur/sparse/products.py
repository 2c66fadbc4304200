"""What the operators compute on the CPU: by the kernels, or by torch where there are none."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import grad

from secateur.errors import InputError
from secateur.sparse import activations, csr
from secateur.sparse.layout import Packed
from secateur.sparse.library import library

__all__ = ["conv2d", "conv2d_gradient", "linear", "linear_gradient", "output_size"]


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Rows and columns of a convolution's output; padding is left, right, top, bottom.

    Examples
    --------
    >>> output_size((14, 14), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    (7, 7)
    """
    ends = (padding[2] + padding[3], padding[0] + padding[1])
    rows, columns = (
        (size[i] + ends[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    return rows, columns


@functools.lru_cache(maxsize=4096)
def _numbers(*values: int) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _weight(starts: Tensor, columns: Tensor, values: Tensor) -> tuple[int, int, int, int, int]:
    """The arguments that stand for a weight."""
    return (
        starts.data_ptr(),
        columns.data_ptr(),
        columns.element_size() == 4,
        values.data_ptr(),
        values.shape[1],
    )


def _activations_of(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise InputError(
            "sparse layers compute in float32, and were given "
            f"{str(x.dtype).removeprefix('torch.')}; convert them, or keep the layer dense"
        )
    return x.contiguous()


def _done(status: int) -> None:
    if status:
        raise MemoryError("there is no memory for the scratch space of a sparse layer")


def linear(
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    bias: Tensor | None,
    outputs: int,
    activation: int,
) -> Tensor:
    """Linear layer: x [..., inputs] -> [..., outputs]."""
    x, inputs, kernels = _activations_of(x), x.shape[-1], library()
    if kernels is None:
        packed = Packed(starts, columns, values, outputs, inputs)
        return activations.apply(csr.linear(x, packed, bias), activation)
    y = x.new_empty((*x.shape[:-1], outputs))
    tokens = x.numel() // max(inputs, 1)
    if tokens and outputs:
        status = kernels.linear(
            _numbers(tokens, inputs, outputs, inputs),
            x.data_ptr(),
            *_weight(starts, columns, values),
            None if bias is None else bias.data_ptr(),
            activation,
            torch.get_num_threads(),
            y.data_ptr(),
        )
        _done(status)
    return y


def linear_gradient(
    dy: Tensor, starts: Tensor, columns: Tensor, values: Tensor, inputs: int
) -> Tensor:
    """Gradient at the input of `linear`, given the one before its activation."""
    dy, outputs, kernels = _activations_of(dy), dy.shape[-1], library()
    if kernels is None:
        return dy @ Packed(starts, columns, values, outputs, inputs).dense()
    dx = dy.new_empty((*dy.shape[:-1], inputs))
    tokens = dy.numel() // max(outputs, 1)
    if tokens and inputs:
        status = kernels.linear_gradient(
            _numbers(tokens, inputs, outputs, inputs),
            dy.data_ptr(),
            *_weight(starts, columns, values),
            torch.get_num_threads(),
            dx.data_ptr(),
        )
        _done(status)
    return dx


def conv2d(
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    bias: Tensor | None,
    outputs: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: int,
) -> Tensor:
    """Convolution; padding is left, right, top, bottom."""
    x, kernels = _activations_of(x), library()
    batch, channels = x.shape[:2]
    size = output_size(x.shape[2:], kernel, stride, padding, dilation)
    if kernels is None:
        inputs = channels // groups * kernel[0] * kernel[1]
        packed = Packed(starts, columns, values, outputs, inputs, groups)
        made = csr.convolution(x, packed, bias, kernel, stride, padding, dilation, size)
        return activations.apply(made, activation)
    y = x.new_empty((batch, outputs, *size))
    if y.numel():
        status = kernels.convolution(
            _geometry(x.shape, y.shape, kernel, stride, padding, dilation, groups),
            x.data_ptr(),
            *_weight(starts, columns, values),
            None if bias is None else bias.data_ptr(),
            activation,
            torch.get_num_threads(),
            y.data_ptr(),
        )
        _done(status)
    return y


def conv2d_gradient(
    dy: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Gradient at the input of `conv2d`, whose shape is given."""
    dy, kernels = _activations_of(dy), library()
    if kernels is None:
        return _dense_conv2d_gradient(
            dy, starts, columns, values, shape, kernel, stride, padding, dilation, groups
        )
    dx = dy.new_empty(tuple(shape))
    if dx.numel() and dy.numel():
        status = kernels.convolution_gradient(
            _geometry(shape, dy.shape, kernel, stride, padding, dilation, groups),
            dy.data_ptr(),
            *_weight(starts, columns, values),
            torch.get_num_threads(),
            dx.data_ptr(),
        )
        _done(status)
    return dx


def _dense_conv2d_gradient(
    dy: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    left, right, top, bottom = padding
    inputs = shape[1] // groups
    packed = Packed(starts, columns, values, dy.shape[1], inputs * kernel[0] * kernel[1], groups)
    weight = packed.dense().reshape(dy.shape[1], inputs, *kernel)
    padded = (shape[0], shape[1], shape[2] + top + bottom, shape[3] + left + right)
    dx = grad.conv2d_input(padded, weight, dy, tuple(stride), 0, tuple(dilation), groups)
    return dx[:, :, top : top + shape[2], left : left + shape[3]].contiguous()


def _geometry(
    x: Sequence[int],
    y: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """In the order of `Convolution` in native/interface.h."""
    return _numbers(*x, *y[1:], *kernel, *stride, padding[2], padding[0], *dilation, groups)
