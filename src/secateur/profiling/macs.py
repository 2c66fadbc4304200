"""Multiply-accumulates of one ATen operation, from its shapes and arguments alone.

Convention: one multiply and the add that follows it are one MAC, so FLOPs = 2 x MACs. Products of
matrices, convolutions, attention and recurrent layers count; element-wise operations,
normalisations, pooling, softmax, biases and copies are zero, as in `torch.utils.flop_counter`.
Causal and masked attention count in full, since the kernels that PyTorch falls back to compute
them in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

__all__ = ["COUNTED", "node_macs"]

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Sequence["Shape | None"]
Counter: TypeAlias = Callable[[Shapes, Shapes, tuple[Any, ...]], int]

_COUNTERS: dict[str, Counter] = {}


def node_macs(op: str, inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    """Count the multiply-accumulates of one executed operation.

    Parameters
    ----------
    op : str
        ATen name without its overload, as in ``func._schema.name``: ``"aten::convolution"``.
    inputs : sequence of (tuple of int or None)
        Shape of each positional argument that is a tensor, ``None`` for the others.
    outputs : sequence of (tuple of int or None)
        Shape of each tensor returned.
    args : tuple
        The positional arguments themselves; tensors may be replaced by ``None``.

    Returns
    -------
    int
        Multiply-accumulates; 0 for an operation that does not multiply and accumulate.

    Examples
    --------
    A 3x3 convolution from 4 to 8 channels on an 8x8 output, for 2 images:

    >>> weight, bias = (8, 4, 3, 3), (8,)
    >>> node_macs("aten::convolution", [(2, 4, 10, 10), weight, bias], [(2, 8, 8, 8)],
    ...           (None, None, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1))
    36864
    >>> node_macs("aten::mm", [(3, 4), (4, 5)], [(3, 5)], (None, None))
    60
    >>> node_macs("aten::relu", [(3, 4)], [(3, 4)], (None,))
    0
    """
    counter = _COUNTERS.get(op) or _COUNTERS.get(op.removesuffix("_"))
    return int(counter(inputs, outputs, args)) if counter is not None else 0


def _counts(*names: str) -> Callable[[Counter], Counter]:
    def add(counter: Counter) -> Counter:
        for name in names:
            _COUNTERS[f"aten::{name}"] = counter
        return counter

    return add


def _shape(shapes: Shapes, index: int) -> Shape:
    shape = shapes[index]
    if shape is None:
        raise ValueError(f"argument {index} of a counted operation is not a tensor")
    return shape


def _convolution(inputs: Shapes, outputs: Shapes, transposed: bool) -> int:
    # Every position that the kernel visits costs the whole weight once: output positions, or
    # input positions where the convolution is transposed. Groups are in the weight's shape.
    visited = _shape(inputs, 0) if transposed else _shape(outputs, 0)
    return visited[0] * prod(visited[2:]) * prod(_shape(inputs, 1))


@_counts("convolution", "_convolution", "convolution_overrideable")
def _any_convolution(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    return _convolution(inputs, outputs, transposed=bool(args[6]))


@_counts(
    "cudnn_convolution",
    "cudnn_convolution_relu",
    "cudnn_convolution_add_relu",
    "mkldnn_convolution",
    "miopen_convolution",
    "miopen_depthwise_convolution",
    "_slow_conv2d_forward",
    "_conv_depthwise2d",
    "conv_depthwise3d",
    "slow_conv3d",
    "slow_conv3d_forward",
    "slow_conv_dilated2d",
    "slow_conv_dilated3d",
)
def _plain_convolution(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    return _convolution(inputs, outputs, transposed=False)


@_counts(
    "cudnn_convolution_transpose",
    "miopen_convolution_transpose",
    "slow_conv_transpose2d",
    "slow_conv_transpose3d",
)
def _transposed_convolution(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    return _convolution(inputs, outputs, transposed=True)


@_counts("conv_tbc")
def _conv_tbc(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    time, batch, _ = _shape(outputs, 0)
    return time * batch * prod(_shape(inputs, 1))


def _product(left: Shape, right: Shape) -> int:
    """[..., m, k] by [..., k, n], or by a vector [k]."""
    return prod(left) * (right[-1] if len(right) > 1 else 1)


@_counts("mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_scaled_mm", "_grouped_mm")
def _matrix_product(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    return _product(_shape(inputs, 0), _shape(inputs, 1))


@_counts("addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation")
def _added_matrix_product(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    return _product(_shape(inputs, 1), _shape(inputs, 2))


@_counts("linear", "mkldnn_linear")
def _linear(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    return prod(_shape(inputs, 0)[:-1]) * prod(_shape(inputs, 1))


@_counts(
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
    "scaled_dot_product_attention",
)
def _attention(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    query, key, value = (_shape(inputs, index) for index in range(3))
    # Grouped queries share keys, so the number of heads is the query's.
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


@_counts("_native_multi_head_attention")
def _multi_head_attention(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    (batch, queries, width), keys = _shape(inputs, 0), _shape(inputs, 1)[1]
    projections = batch * width * width * (2 * queries + 2 * keys)
    return projections + 2 * batch * queries * keys * width


@_counts("_transformer_encoder_layer_fwd")
def _encoder_layer(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    batch, length, width = _shape(inputs, 0)
    weights = prod(_shape(inputs, 3)) + prod(_shape(inputs, 5))
    feed_forward = prod(_shape(inputs, 14)) + prod(_shape(inputs, 16))
    return batch * length * (weights + feed_forward + 2 * length * width)


@_counts("mkldnn_rnn_layer")
def _recurrent_layer(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    tokens = prod(_shape(inputs, 0)[:-1])
    return tokens * (prod(_shape(inputs, 1)) + prod(_shape(inputs, 2)))


@_counts("_cudnn_rnn")
def _recurrent_stack(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    mode, hidden, projected, layers, bidirectional = (args[i] for i in (6, 7, 8, 9, 13))
    gates = {2: 4, 3: 3}.get(mode, 1)
    directions = 2 if bidirectional else 1
    out = projected or hidden
    width, weights = _shape(inputs, 0)[-1], 0
    for _ in range(layers):
        weights += directions * (gates * hidden * (width + out) + hidden * projected)
        width = directions * out
    return prod(_shape(inputs, 0)[:-1]) * weights


@_counts("_trilinear")
def _trilinear(inputs: Shapes, outputs: Shapes, args: tuple[Any, ...]) -> int:
    # Each factor is broadcast over the axes it lacks; the products fill the joint index space.
    space: list[int] = []
    for index in range(3):
        shape = list(_shape(inputs, index))
        for axis in sorted(args[3 + index]):
            shape.insert(axis, 1)
        space = [b if a == 1 else a for a, b in zip(space or shape, shape, strict=True)]
    return prod(space)


COUNTED: frozenset[str] = frozenset(_COUNTERS)
"""Names of the operations that count; every other operation is zero."""
