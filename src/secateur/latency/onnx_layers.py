"""One operation as an ONNX model of one layer, written node by node.

An exporter would take a second for each; a table needs thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from secateur.errors import require
from secateur.latency.operations import Fixed, Operation, Sizes

__all__ = ["ONNX_KINDS", "onnx_layer"]

OPSET, IR_VERSION = 17, 8


class _Model:
    """An ONNX graph in the making."""

    def __init__(self, dtype: type[np.floating[Any]]) -> None:
        self.onnx = require("onnx", "export")
        self.dtype = dtype
        self.random = np.random.default_rng(0)
        self.feeds: dict[str, np.ndarray] = {}
        self.weights: list[Any] = []
        self.nodes: list[Any] = []

    def activation(self, *shape: int) -> str:
        """A random input."""
        name = f"x{len(self.feeds)}"
        self.feeds[name] = self.random.standard_normal(shape).astype(self.dtype)
        return name

    def weight(self, *shape: int) -> str:
        """A random constant, which a runtime may lay out as it likes."""
        name = f"w{len(self.weights)}"
        values = self.random.standard_normal(shape).astype(self.dtype)
        self.weights.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """An operation; returns its output."""
        name = f"y{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def bytes(self) -> bytes:
        """The finished model; its output is the last node's, of as many dimensions as the input."""
        helper = self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        inputs = [
            helper.make_tensor_value_info(name, kind, values.shape)
            for name, values in self.feeds.items()
        ]
        free = [None] * self.feeds["x0"].ndim
        output = helper.make_tensor_value_info(self.nodes[-1].output[0], kind, free)
        graph = helper.make_graph(self.nodes, "layer", inputs, [output], self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        return model.SerializeToString()


def _convolution(model: _Model, fixed: Fixed, sizes: Sizes) -> None:
    groups, inside, outside = sizes
    x = model.activation(fixed["batch"], groups * inside, *fixed["image"])
    options: dict[str, Any] = {
        "kernel_shape": fixed["kernel"], "strides": fixed["stride"],
        "dilations": fixed["dilation"], "pads": fixed["padding"] * 2, "group": groups,
    }  # fmt: skip
    if fixed["transposed"]:
        weight = model.weight(groups * inside, outside, *fixed["kernel"])
        op, options["output_padding"] = "ConvTranspose", fixed["output_padding"]
    else:
        weight = model.weight(groups * outside, inside, *fixed["kernel"])
        op = "Conv"
    bias = [model.weight(groups * outside)] if fixed["bias"] else []
    model.node(op, [x, weight, *bias], **options)


def _product(model: _Model, fixed: Fixed, sizes: Sizes) -> None:
    rows, inside, outside = sizes
    operands = [model.activation(rows, inside), model.weight(inside, outside)]
    if fixed["bias"]:
        model.node("Gemm", [*operands, model.weight(outside)])
    else:
        model.node("MatMul", operands)


def _batched_product(model: _Model, fixed: Fixed, sizes: Sizes) -> None:
    count, rows, inner, columns = sizes
    operands = [model.activation(count, rows, inner), model.activation(count, inner, columns)]
    model.node("MatMul", operands)


def _attention(model: _Model, fixed: Fixed, sizes: Sizes) -> None:
    heads, width = sizes
    query = model.activation(fixed["batch"], heads, fixed["queries"], width)
    # As exported graphs have it: the keys arrive transposed.
    keys = model.activation(fixed["batch"], heads, width, fixed["keys"])
    values = model.activation(fixed["batch"], heads, fixed["keys"], width)
    weights = model.node("Softmax", [model.node("MatMul", [query, keys])], axis=-1)
    model.node("MatMul", [weights, values])


def _layer_norm(model: _Model, fixed: Fixed, sizes: Sizes) -> None:
    x = model.activation(fixed["rows"], sizes[0])
    model.node("LayerNormalization", [x, model.weight(sizes[0]), model.weight(sizes[0])])


def _softmax(model: _Model, fixed: Fixed, sizes: Sizes) -> None:
    model.node("Softmax", [model.activation(*sizes)], axis=-1)


ONNX_KINDS: dict[str, Callable[[_Model, Fixed, Sizes], None]] = {
    "convolution": _convolution,
    "product": _product,
    "batched product": _batched_product,
    "attention": _attention,
    "layer norm": _layer_norm,
    "softmax": _softmax,
}
"""What graph runtimes run by itself; they make the other kinds part of these."""


def onnx_layer(
    operation: Operation, sizes: Sizes, dtype: type[np.floating[Any]] = np.float32
) -> tuple[bytes, dict[str, np.ndarray]]:
    """A serialised ONNX model that runs the operation at these sizes, and what to feed it."""
    model = _Model(dtype)
    ONNX_KINDS[operation.kind](model, operation.fixed, sizes)
    return model.bytes(), model.feeds
