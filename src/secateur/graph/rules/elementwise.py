"""Element-wise and broadcasting operations: what meets in a dimension is tied."""

from __future__ import annotations

from secateur.graph.lanes import Layout
from secateur.graph.propagate import Propagation, rule
from secateur.graph.trace import Node

_UNARY = """
abs acos acosh alias angle asin asinh atan atanh bernoulli bitwise_not ceil celu clamp clamp_max
clamp_min clip clone contiguous cos cosh deg2rad detach digamma elu erf erfc erfinv exp exp2
expm1 fill floor frac gelu hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan
leaky_relu lgamma lift lift_fresh log log10 log1p log2 log_sigmoid logical_not logit mish
nan_to_num native_dropout neg positive rad2deg reciprocal relu relu6 rrelu_with_noise rsqrt round
rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink sqrt square tan tanh
threshold tril triu trunc zero _to_copy log_sigmoid_forward
"""
_BINARY = """
add sub mul div true_divide floor_divide remainder fmod pow atan2 maximum minimum fmax fmin
eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor
bitwise_left_shift bitwise_right_shift where masked_fill addcmul addcdiv lerp xlogy hypot
copysign heaviside logaddexp logaddexp2 _prelu_kernel prelu nextafter float_power __and__ __or__
__xor__ ldexp polar complex
"""


@rule(*(f"aten::{name}" for name in (_UNARY + _BINARY).split()))
def elementwise(p: Propagation, node: Node) -> list[Layout]:
    layouts = [p.broadcast(node.inputs, p.shape(index)) for index in node.outputs[:1]]
    for index in node.outputs[1:]:
        same = p.shape(index) == p.shape(node.outputs[0])
        layouts.append(layouts[0] if same else [None] * len(p.shape(index)))
    if node.op in ("aten::clone", "aten::_to_copy", "aten::alias", "aten::detach"):
        root = p.roots.get(node.inputs[0])
        if root is not None:
            p.roots[node.outputs[0]] = root
    return layouts


@rule("aten::copy")
def copy(p: Propagation, node: Node) -> list[Layout]:
    """Writing into a tensor, often a slice of a larger one, ties what is written to it."""
    return [p.broadcast(node.inputs, p.shape(node.outputs[0]))]


@rule("aten::tril_indices", "aten::triu_indices", "aten::_local_scalar_dense", "aten::equal",
      "aten::_assert_tensor_metadata", "aten::_assert_async", "aten::_assert_scalar",
      "aten::sym_constrain_range", "aten::sym_constrain_range_for_size")  # fmt: skip
def free(p: Propagation, node: Node) -> list[Layout]:
    return [[None] * len(p.shape(index)) for index in node.outputs]
