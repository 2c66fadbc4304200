"""The kernels as operators of torch: traced, exported, compiled, and differentiated by activations.

``torch.ops.secateur.sparse_linear`` and ``sparse_conv2d``, with a gradient operator each. The
weights are frozen: gradients go to the activations only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.sparse import activations, products

__all__ = ["sparse_conv2d", "sparse_linear"]

WEIGHT = "Tensor starts, Tensor columns, Tensor values"
GEOMETRY = "SymInt[] kernel, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"

_operators = torch.library.Library("secateur", "FRAGMENT")
_operators.define(
    f"sparse_linear(Tensor x, {WEIGHT}, Tensor? bias, SymInt outputs, int activation) -> Tensor"
)
_operators.define(f"sparse_linear_gradient(Tensor dy, {WEIGHT}, SymInt inputs) -> Tensor")
_operators.define(
    f"sparse_conv2d(Tensor x, {WEIGHT}, Tensor? bias, SymInt outputs, {GEOMETRY}, int activation) "
    "-> Tensor"
)
_operators.define(
    f"sparse_conv2d_gradient(Tensor dy, {WEIGHT}, SymInt[] shape, {GEOMETRY}) -> Tensor"
)

_operators.impl("sparse_linear", products.linear, "CPU")
_operators.impl("sparse_linear_gradient", products.linear_gradient, "CPU")
_operators.impl("sparse_conv2d", products.conv2d, "CPU")
_operators.impl("sparse_conv2d_gradient", products.conv2d_gradient, "CPU")


def _fake_sparse_linear(
    x: Tensor, starts: Any, columns: Any, values: Any, bias: Any, outputs: int, _: int
) -> Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


def _fake_sparse_linear_gradient(
    dy: Tensor, starts: Any, columns: Any, values: Any, inputs: int
) -> Tensor:
    return dy.new_empty((*dy.shape[:-1], inputs))


def _fake_sparse_conv2d(
    x: Tensor,
    starts: Any,
    columns: Any,
    values: Any,
    bias: Any,
    outputs: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: int,
) -> Tensor:
    size = products.output_size(x.shape[2:], kernel, stride, padding, dilation)
    return x.new_empty((x.shape[0], outputs, *size))


def _fake_sparse_conv2d_gradient(
    dy: Tensor, starts: Any, columns: Any, values: Any, shape: Any, *_: Any
) -> Tensor:
    return dy.new_empty(tuple(shape))


_FAKES: dict[str, Any] = {
    "sparse_linear": _fake_sparse_linear,
    "sparse_linear_gradient": _fake_sparse_linear_gradient,
    "sparse_conv2d": _fake_sparse_conv2d,
    "sparse_conv2d_gradient": _fake_sparse_conv2d_gradient,
}
for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"secateur::{_name}", _fake, lib=_operators)

sparse_linear = torch.ops.secateur.sparse_linear.default
sparse_conv2d = torch.ops.secateur.sparse_conv2d.default


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *weight = inputs[:4]
    ctx.save_for_backward(x, *weight, inputs[4])
    ctx.rest = inputs[5:]


def _before_activation(dy: Tensor, ctx: Any, operator: Any) -> Tensor:
    """The gradient at what the activation was given, which is computed anew."""
    *rest, activation = ctx.rest
    if not activation:
        return dy
    return activations.backward(dy, operator(*ctx.saved_tensors, *rest, 0), activation)


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, *weight, _ = ctx.saved_tensors
    dy = _before_activation(dy, ctx, sparse_linear)
    dx = torch.ops.secateur.sparse_linear_gradient(dy, *weight, x.shape[-1])
    return dx, *[None] * 6


def _conv2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, *weight, _ = ctx.saved_tensors
    dy = _before_activation(dy, ctx, sparse_conv2d)
    _, *geometry, _ = ctx.rest
    dx = torch.ops.secateur.sparse_conv2d_gradient(dy, *weight, x.shape, *geometry)
    return dx, *[None] * 11


torch.library.register_autograd(
    "secateur::sparse_linear", _linear_backward, setup_context=_keep, lib=_operators
)
torch.library.register_autograd(
    "secateur::sparse_conv2d", _conv2d_backward, setup_context=_keep, lib=_operators
)
