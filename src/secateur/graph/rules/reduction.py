"""Reductions, softmax and other operations along a dimension."""

from __future__ import annotations

from secateur.graph.lanes import Layout
from secateur.graph.propagate import Propagation, rule
from secateur.graph.rules.reshaping import remove
from secateur.graph.trace import Node

_SUMS = "sum nansum linalg_vector_norm norm count_nonzero any"
_STATISTICS = """
mean nanmean var std var_mean std_mean amax amin max min aminmax prod all logsumexp median
"""


def reduced_dims(node: Node, rank: int) -> list[int]:
    dims = node.bound.get("dim")
    if dims is None or dims == []:
        return list(range(rank))
    listed = [dims] if isinstance(dims, int) else list(dims)
    return sorted({dim % rank for dim in listed}) if rank else []


@rule(*(f"aten::{name}" for name in (_SUMS + _STATISTICS).split()))
def reduce(p: Propagation, node: Node) -> list[Layout]:
    source = node.inputs[0]
    if len(node.inputs) > 1:
        return [p.broadcast(node.inputs, p.shape(index)) for index in node.outputs]
    shape = p.shape(source)
    dims = reduced_dims(node, len(shape))
    name = node.op.removeprefix("aten::")
    norm = node.bound.get("ord", node.bound.get("p", 2))
    exact = name in _SUMS.split() and (not isinstance(norm, (int, float)) or norm > 0)
    layout = list(p.layout(source))
    for dim in range(len(shape)):
        lane = layout[dim]
        if lane is not None and any(row in dims for row in lane.rows):
            layout[dim] = p.ledger.aligned(lane)
    p.mixes([(source, dim) for dim in dims], exact_with_zeros=exact)
    results = []
    for position, index in enumerate(node.outputs):
        if position and name in ("max", "min", "median"):
            p.pin(layout, [d for d in dims if _used(p, node, index)], "its positions are values")
        results.append(_without(layout, dims, len(p.shape(index)) == len(shape)))
    return results


def _used(p: Propagation, node: Node, index: int) -> bool:
    """Whether anything reads a result."""
    return any(
        index in later.inputs
        for later in (*p.trace.nodes, *p.trace.training_only)[node.index + 1 :]
    )


def _without(layout: Layout, dims: list[int], keepdim: bool) -> Layout:
    result = [None if dim in dims else lane for dim, lane in enumerate(layout)]
    if not keepdim:
        for dim in sorted(dims, reverse=True):
            result = remove(result, dim)
    return result


@rule("aten::_softmax", "aten::_log_softmax", "aten::_safe_softmax", "aten::softmax",
      "aten::log_softmax", "aten::cumsum", "aten::cumprod", "aten::logcumsumexp",
      "aten::cummax", "aten::cummin")  # fmt: skip
def along(p: Propagation, node: Node) -> list[Layout]:
    source = node.inputs[0]
    rank = len(p.shape(source))
    layout = list(p.layout(source))
    if rank:
        dim = node.bound["dim"] % rank
        for at, lane in enumerate(layout):
            if lane is not None and dim in lane.rows:
                layout[at] = p.ledger.aligned(lane)
        p.mixes([(source, dim)], exact_with_zeros=False)
    return [layout for _ in node.outputs]


@rule("aten::sort", "aten::argsort", "aten::topk", "aten::argmax", "aten::argmin",
      "aten::kthvalue", "aten::mode", "aten::renorm", "aten::nonzero", "aten::unique_consecutive",
      "aten::_unique2", "aten::multinomial", "aten::bucketize", "aten::searchsorted",
      "aten::one_hot", "aten::bincount", "aten::histc", "aten::isin")  # fmt: skip
def positions(p: Propagation, node: Node) -> list[Layout]:
    return p.give_up(node, "its positions become values")
