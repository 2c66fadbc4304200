"""The costly operations of a forward pass: what tells them apart, and which sizes they have.

An operation is known by its kind and by what pruning leaves as it is (resolution, kernel, stride);
its sizes are what pruning changes. Two layers that differ in sizes only are one operation.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, TypeAlias

from secateur.graph.trace import Node

__all__ = ["KINDS", "Call", "Fixed", "Kind", "Operation", "Sizes", "operation_of"]

Sizes: TypeAlias = "tuple[int, ...]"
Fixed: TypeAlias = "dict[str, Any]"
Shape: TypeAlias = "tuple[int, ...]"


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation without its sizes.

    Attributes
    ----------
    kind : str
        ``"convolution"``, ``"product"``, ...
    settings : str
        What pruning leaves as it is, as JSON.

    Examples
    --------
    >>> operation = Operation("product", '{"bias": true}')
    >>> operation.key, operation.fixed
    ('product {"bias": true}', {'bias': True})
    """

    kind: str
    settings: str

    @property
    def key(self) -> str:
        """Its name in a table."""
        return f"{self.kind} {self.settings}"

    @property
    def fixed(self) -> Fixed:
        """What pruning leaves as it is."""
        return json.loads(self.settings)


@dataclasses.dataclass(frozen=True)
class Call:
    """What an operation was called with.

    Attributes
    ----------
    node : Node
    inputs : sequence of (tuple of int or None)
        Shape of every positional argument that is a tensor.
    outputs : sequence of tuple of int
    """

    node: Node
    inputs: Sequence[Shape | None]
    outputs: Sequence[Shape]

    def shape(self, at: int) -> Shape:
        """Shape of a positional argument."""
        shape = self.inputs[at]
        assert shape is not None
        return shape

    def plain(self) -> list[Any] | None:
        """Arguments after the first tensor, or None where they are more than numbers."""
        values = [*self.node.args[1:], *self.node.kwargs.values()]
        try:
            json.dumps(values)
        except TypeError:
            return None
        return list(self.node.args[1:])


class Kind(ABC):
    """One kind of operation.

    Attributes
    ----------
    name : str
    ops : tuple of str
        Names of the recorded operations.
    axes : tuple of str
        What its sizes are.
    fused : bool
        Whether a runtime that compiles whole graphs makes it part of the operation before it.
    """

    name: ClassVar[str]
    ops: ClassVar[tuple[str, ...]]
    axes: ClassVar[tuple[str, ...]]
    fused: ClassVar[bool] = False

    @abstractmethod
    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        """Return what pruning leaves as it is, and the sizes; None for a call of another kind."""


class Convolution(Kind):
    """Any convolution: groups, and channels in and out of each."""

    name = "convolution"
    ops = ("aten::convolution",)
    axes = ("groups", "in channels per group", "out channels per group")

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        x, weight, out = call.shape(0), call.shape(1), call.outputs[0]
        stride, padding, dilation, transposed, more = call.node.args[3:8]
        fixed = {
            "batch": x[0],
            "image": list(x[2:]),
            "kernel": list(weight[2:]),
            "stride": list(stride),
            "padding": list(padding),
            "dilation": list(dilation),
            "transposed": bool(transposed),
            "output_padding": list(more),
            "bias": call.inputs[2] is not None,
        }
        if transposed:
            groups = max(out[1] // weight[1], 1)
            return fixed, (groups, weight[0] // groups, weight[1])
        groups = max(x[1] // weight[1], 1)
        return fixed, (groups, weight[1], weight[0] // groups)


class Product(Kind):
    """A matrix of activations by a matrix of weights: a linear layer."""

    name = "product"
    ops = ("aten::mm", "aten::addmm")
    axes = ("rows", "in features", "out features")

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        bias = call.node.op == "aten::addmm"
        left, right = call.shape(int(bias)), call.shape(int(bias) + 1)
        return {"bias": bias}, (*left, right[1])


class BatchedProduct(Kind):
    """Many matrices by many matrices, both activations."""

    name = "batched product"
    ops = ("aten::bmm", "aten::baddbmm")
    axes = ("matrices", "rows", "inner", "columns")

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        first = int(call.node.op == "aten::baddbmm")
        left, right = call.shape(first), call.shape(first + 1)
        return {}, (*left, right[2])


class Attention(Kind):
    """Scaled dot-product attention as one operation."""

    name = "attention"
    ops = tuple(
        f"aten::{name}"
        for name in (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_attention_math",
            "scaled_dot_product_attention",
        )
    )
    axes = ("heads", "head size")

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        query, key = call.shape(0), call.shape(1)
        if len(query) != 4:
            return None
        fixed = {"batch": query[0], "queries": query[2], "keys": key[2]}
        return fixed, (query[1], query[3])


class LayerNorm(Kind):
    """A norm over the last dimensions."""

    name = "layer norm"
    ops = ("aten::native_layer_norm", "aten::_fused_rms_norm")
    axes = ("features",)

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        shape, over = call.shape(0), len(call.node.args[1])
        return {"rows": prod(shape[:-over])}, (prod(shape[-over:]),)


class Softmax(Kind):
    """A softmax over the last dimension."""

    name = "softmax"
    ops = ("aten::_softmax",)
    axes = ("rows", "columns")

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        shape, dim = call.shape(0), call.node.args[1]
        return ({}, (prod(shape[:-1]), shape[-1])) if dim in (-1, len(shape) - 1) else None


class BatchNorm(Kind):
    """A norm with running statistics."""

    name = "batch norm"
    ops = ("aten::native_batch_norm", "aten::_native_batch_norm_legit_no_training")
    axes = ("channels",)
    fused = True

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        batch, channels, *image = call.shape(0)
        return {"batch": batch, "image": image}, (channels,)


class GroupNorm(Kind):
    """A norm over groups of channels."""

    name = "group norm"
    ops = ("aten::native_group_norm",)
    axes = ("channels",)
    fused = True

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        batch, channels, *image = call.shape(0)
        return {"batch": batch, "image": image, "groups": call.node.bound["group"]}, (channels,)


class Pooling(Kind):
    """What works on every channel's image by itself."""

    name = "pooling"
    ops = tuple(
        f"aten::{name}"
        for name in (
            "max_pool2d_with_indices",
            "avg_pool2d",
            "_adaptive_avg_pool2d",
            "mean",
            "upsample_nearest2d",
            "upsample_bilinear2d",
        )
    )
    axes = ("channels",)
    fused = True

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        shape, rest = call.shape(0), call.plain()
        if len(shape) != 4 or rest is None or not rest:
            return None
        fixed = {"op": call.node.op, "batch": shape[0], "image": list(shape[2:]), "rest": rest}
        return fixed, (shape[1],)


class Elementwise(Kind):
    """What makes one number of one or two."""

    name = "elementwise"
    ops = tuple(
        f"aten::{name}"
        for name in (
            *("relu gelu silu mish elu leaky_relu hardswish hardsigmoid hardtanh sigmoid tanh exp "
              "sqrt rsqrt clamp clamp_min neg").split(),
            *"add sub mul div".split(),
            *"clone cat".split(),
        )
    )  # fmt: skip
    axes = ("elements",)
    fused = True

    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        out = prod(call.outputs[0])
        if call.node.op in ("aten::clone", "aten::cat"):
            return {"op": "aten::clone", "operands": 1, "in_place": False}, (out,)
        operands = [prod(shape) for shape in call.inputs if shape is not None]
        return {
            "op": call.node.op,
            # What is broadcast is read once and costs next to nothing.
            "operands": max(sum(2 * size > out for size in operands), 1),
            "in_place": call.node.in_place,
        }, (out,)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Convolution(),
        Product(),
        BatchedProduct(),
        Attention(),
        LayerNorm(),
        Softmax(),
        BatchNorm(),
        GroupNorm(),
        Pooling(),
        Elementwise(),
    )
}
"""Every kind of operation that takes time, by name."""

_KIND_OF = {op: kind for kind in KINDS.values() for op in kind.ops}


def operation_of(call: Call) -> tuple[Operation, Sizes] | None:
    """The operation and its sizes; None for one that takes next to no time, or is not known."""
    kind = _KIND_OF.get(call.node.op)
    found = None if kind is None else kind.read(call)
    if kind is None or found is None:
        return None
    fixed, sizes = found
    return Operation(kind.name, json.dumps(fixed)), tuple(int(size) for size in sizes)
