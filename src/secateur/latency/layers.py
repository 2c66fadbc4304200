"""One operation as a model of one layer, in PyTorch, on random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.latency.operations import Fixed, Operation, Sizes

__all__ = ["layer"]

Make: TypeAlias = Callable[..., Tensor]
Built: TypeAlias = "tuple[nn.Module, tuple[Tensor, ...]]"


class _Function(nn.Module):
    """A function of activations as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def _convolution(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    groups, inside, outside = sizes
    kinds: dict[tuple[bool, int], Any] = {
        (False, 1): nn.Conv1d, (False, 2): nn.Conv2d, (False, 3): nn.Conv3d,
        (True, 1): nn.ConvTranspose1d, (True, 2): nn.ConvTranspose2d, (True, 3): nn.ConvTranspose3d,
    }  # fmt: skip
    options = {key: tuple(fixed[key]) for key in ("stride", "padding", "dilation")}
    if fixed["transposed"]:
        options["output_padding"] = tuple(fixed["output_padding"])
    kind = kinds[fixed["transposed"], len(fixed["image"])]
    module = kind(
        groups * inside, groups * outside, tuple(fixed["kernel"]),
        groups=groups, bias=fixed["bias"], **options,
    )  # fmt: skip
    return module, (make(fixed["batch"], groups * inside, *fixed["image"]),)


def _product(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    rows, inside, outside = sizes
    return nn.Linear(inside, outside, bias=fixed["bias"]), (make(rows, inside),)


def _batched_product(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    count, rows, inner, columns = sizes
    return _Function(torch.bmm), (make(count, rows, inner), make(count, inner, columns))


def _attention(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    heads, width = sizes
    query = make(fixed["batch"], heads, fixed["queries"], width)
    keys = (make(fixed["batch"], heads, fixed["keys"], width) for _ in range(2))
    return _Function(functional.scaled_dot_product_attention), (query, *keys)


def _layer_norm(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    return nn.LayerNorm(sizes[0]), (make(fixed["rows"], sizes[0]),)


def _softmax(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    return nn.Softmax(-1), (make(*sizes),)


def _batch_norm(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[len(fixed["image"]) or 1]
    return kind(sizes[0]), (make(fixed["batch"], sizes[0], *fixed["image"]),)


def _group_norm(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    module = nn.GroupNorm(math.gcd(fixed["groups"], sizes[0]), sizes[0])
    return module, (make(fixed["batch"], sizes[0], *fixed["image"]),)


def _pooling(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    function, rest = _aten(fixed["op"]), fixed["rest"]
    return (
        _Function(lambda x: function(x, *rest)),
        (make(fixed["batch"], sizes[0], *fixed["image"]),),
    )


def _elementwise(fixed: Fixed, sizes: Sizes, make: Make) -> Built:
    name, operands = fixed["op"], [make(sizes[0])]
    function = _aten(name + "_" if fixed["in_place"] else name)
    if name.removeprefix("aten::") in ("add", "sub", "mul", "div"):
        # In place, again and again: what is added is nothing, so that numbers stay small.
        other = torch.full_like(operands[0], float(name.endswith(("mul", "div"))))
        operands.append(other if fixed["operands"] == 2 else other[:1])
    rest = {"aten::clamp": (-1.0, 1.0), "aten::clamp_min": (0.0,)}.get(name, ())
    return _Function(lambda *tensors: function(*tensors, *rest)), tuple(operands)


def _aten(op: str) -> Any:
    return getattr(torch.ops.aten, op.removeprefix("aten::"))


_BUILDERS: dict[str, Callable[[Fixed, Sizes, Make], Built]] = {
    "convolution": _convolution,
    "product": _product,
    "batched product": _batched_product,
    "attention": _attention,
    "layer norm": _layer_norm,
    "softmax": _softmax,
    "batch norm": _batch_norm,
    "group norm": _group_norm,
    "pooling": _pooling,
    "elementwise": _elementwise,
}


def layer(
    operation: Operation,
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Built:
    """A module that runs the operation at these sizes, and what to call it with.

    Examples
    --------
    >>> module, inputs = layer(Operation("product", '{"bias": true}'), (2, 8, 4))
    >>> module, module(*inputs).shape
    (Linear(in_features=8, out_features=4, bias=True), torch.Size([2, 4]))
    """
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    with torch.random.fork_rng(devices=[]):
        module, inputs = _BUILDERS[operation.kind](operation.fixed, sizes, make)
    return module.to(device, dtype).eval(), inputs
