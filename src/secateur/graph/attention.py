"""Where a forward pass attends: the dimensions of heads and of their widths, found by operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from secateur.graph.graph import Graph
from secateur.graph.propagate import RULES
from secateur.graph.rules.attention import attention
from secateur.graph.trace import INCIDENTAL, Node, Ref

__all__ = ["Attending", "attending"]

FUSED = frozenset(op for op, function in RULES.items() if function is attention)
SOFTMAX = frozenset({"aten::_softmax", "aten::_safe_softmax", "aten::softmax"})
PRODUCTS = frozenset({"aten::bmm", "aten::baddbmm", "aten::mm"})

# What stands between scores, their softmax and the products on both sides of it.
BETWEEN = INCIDENTAL | {
    f"aten::{name}"
    for name in "view reshape _unsafe_view expand transpose permute unsqueeze squeeze add mul div "
    "where masked_fill native_dropout tanh bernoulli copy cat slice".split()
}

Place = tuple[int, int]
"""A dimension of a value."""


@dataclasses.dataclass
class Attending:
    """Dimensions of values that attention runs over.

    Attributes
    ----------
    heads : list of (value, dim)
        Of queries, keys, values or scores: one index a head.
    widths : list of (value, dim)
        Of queries, keys and values: what heads are wide.
    """

    heads: list[Place] = dataclasses.field(default_factory=list)
    widths: list[Place] = dataclasses.field(default_factory=list)


def attending(graph: Graph) -> Attending:
    """Find every attention of a trace, fused or written out as product, softmax and product.

    Examples
    --------
    >>> import torch
    >>> from secateur.graph import trace
    >>> net = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> x = torch.zeros(1, 3, 8)
    >>> len(attending(trace(net, (x, x, x))).heads) > 0
    True
    """
    found = Attending()
    readers = _readers(graph)
    makers = {value: node for node in graph.trace.nodes for value in node.outputs}
    for node in graph.trace.nodes:
        if node.op in FUSED:
            for ref in node.args[:3]:
                found.heads.append((ref.index, 1))
                found.widths.append((ref.index, 3))
        elif node.op in SOFTMAX:
            _written_out(graph, node, makers, readers, found)
    return found


def _readers(graph: Graph) -> dict[int, list[Node]]:
    readers: dict[int, list[Node]] = {}
    for node in graph.trace.nodes:
        for value in dict.fromkeys(node.inputs):
            readers.setdefault(value, []).append(node)
    return readers


def _written_out(
    graph: Graph,
    node: Node,
    makers: dict[int, Node],
    readers: dict[int, list[Node]],
    found: Attending,
) -> None:
    """A softmax counts as attention where products of activations stand on both sides."""
    source = node.inputs[0]
    rank = len(graph.trace.values[source].shape)
    before = list(_products_before(graph, source, makers))
    after = list(_products_after(graph, node.outputs[0], readers))
    if rank < 3 or not before or not after:
        return
    found.heads += [(source, dim) for dim in range(rank - 2)]
    for product in before:
        first, second = _factors(product)
        ends = len(graph.trace.values[first].shape)
        found.widths += [(first, ends - 1), (second, ends - 2)]
    for product in after:
        _, second = _factors(product)
        found.widths.append((second, len(graph.trace.values[second].shape) - 1))


def _factors(product: Node) -> tuple[int, int]:
    refs = [argument for argument in product.args if isinstance(argument, Ref)]
    return refs[-2].index, refs[-1].index


def _dynamic(graph: Graph, product: Node) -> bool:
    """Whether both factors are activations."""
    static = graph.propagation.static
    return not any(static[index] for index in _factors(product))


def _products_before(graph: Graph, value: int, makers: dict[int, Node]) -> Iterator[Node]:
    seen, todo = set(), [value]
    while todo:
        node = makers.get(todo.pop())
        if node is None or node.index in seen:
            continue
        seen.add(node.index)
        if node.op in PRODUCTS:
            if _dynamic(graph, node):
                yield node
        elif node.op in BETWEEN:
            todo += node.inputs


def _products_after(graph: Graph, value: int, readers: dict[int, list[Node]]) -> Iterator[Node]:
    seen, todo = set(), [value]
    while todo:
        for node in readers.get(todo.pop(), ()):
            if node.index in seen:
                continue
            seen.add(node.index)
            if node.op in PRODUCTS:
                if _dynamic(graph, node):
                    yield node
            elif node.op in BETWEEN:
                todo += node.outputs
