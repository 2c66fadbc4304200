"""The kinds of operations that take time."""

from __future__ import annotations

import json
from math import prod

from secateur.latency.operations import Call, Fixed, Kind, Operation, Sizes

__all__ = ["KINDS", "operation_of"]


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
