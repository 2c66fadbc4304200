"""Keep a result that the code scales by a size: fold the ratio into the weights before it.

Attention divides by the root of the heads' width. Narrower heads change that number, so the
query's weights take the ratio, and the product stays what it was.
"""

from __future__ import annotations

import dataclasses

import torch

from secateur.graph.graph import Graph
from secateur.graph.rules.reshaping import VIEWS
from secateur.graph.trace import Node, Ref
from secateur.plan import Rescale

__all__ = ["fold"]

# Operations that only move entries: run on a tensor of row numbers, they tell where rows go.
MOVES = frozenset(VIEWS) | {
    f"aten::{name}"
    for name in """
    permute transpose t unsqueeze squeeze expand select slice split split_with_sizes unsafe_split
    chunk unbind clone alias detach _to_copy flip repeat contiguous
    """.split()
}
HOMOGENEOUS = MOVES | {"aten::neg", "aten::mul", "aten::div", "aten::add", "aten::sub", "aten::cat"}
PRODUCTS = {"aten::mm": 1, "aten::addmm": 2, "aten::convolution": 1, "aten::bmm": 1}


@dataclasses.dataclass
class _Source:
    """A weight whose rows make a value: the node, and which outputs of it are used."""

    node: Node
    rows: set[int]


def fold(graph: Graph, operand: int, factor: float) -> list[Rescale] | None:
    """Rescalings that multiply a value by a factor; None where nothing linear is before it.

    Parameters
    ----------
    graph : Graph
    operand : int
        Value to be multiplied.
    factor : float
    """
    made = {index: node for node in graph.trace.nodes for index in node.outputs}
    sources: dict[int, _Source] = {}
    if not _trace_back(graph, made, operand, [], sources):
        return None
    changes: list[Rescale] = []
    for source in sources.values():
        found = _rescale(graph, source, factor)
        if found is None:
            return None
        changes.extend(found)
    return changes


def _trace_back(
    graph: Graph,
    made: dict[int, Node],
    value: int,
    path: list[tuple[Node, int, int]],
    sources: dict[int, _Source],
) -> bool:
    """Follow a value back through homogeneous operations to the products that make it."""
    p = graph.propagation
    node = made.get(value)
    if node is None or len(path) > 200:
        return False
    if node.op in PRODUCTS:
        rows = _rows(graph, node, path)
        if rows is None:
            return False
        sources.setdefault(node.index, _Source(node, set())).rows |= rows
        return True
    if node.op not in HOMOGENEOUS:
        return False
    moving = [index for index in node.inputs if not p.static[index]]
    if node.op == "aten::mul":
        weights = [index for index in node.inputs if p.static[index] and p.roots.get(index)]
        owned = [p.roots[index] for index in weights]
        if len(moving) == 1 and len(owned) == 1 and p.uses.get(owned[0], 0) == 1:
            if graph.trace.values[owned[0]].name in graph.parameters:
                sources[node.index] = _Source(node, set())
                return True
        if len(moving) != 1:
            return False
    elif node.op == "aten::div":
        if moving != node.inputs[:1]:
            return False
    elif node.op in ("aten::add", "aten::sub") and len(moving) != len(node.inputs):
        return False
    position = node.outputs.index(value)
    return all(
        _trace_back(graph, made, index, [*path, (node, index, position)], sources)
        for index in dict.fromkeys(moving)
    )


def _rows(graph: Graph, product: Node, path: list[tuple[Node, int, int]]) -> set[int] | None:
    """Which output features of a product reach the end of a path."""
    shape = graph.trace.values[product.outputs[0]].shape
    if product.op == "aten::convolution":
        kernel = len(graph.trace.values[product.inputs[1]].shape) - 2
        axis = len(shape) - kernel - 1
    else:
        axis = len(shape) - 1
    view = [1] * len(shape)
    view[axis] = -1
    numbers = torch.arange(shape[axis]).reshape(view).expand(shape)
    for node, source, position in reversed(path):
        if node.op in MOVES:
            args = [_substitute(argument, source, numbers) for argument in node.args]
            kwargs = {
                key: value
                for key, value in node.kwargs.items()
                if key not in ("dtype", "device", "layout", "pin_memory")
            }
            if node.op in ("aten::_to_copy", "aten::contiguous"):
                continue
            if node.op == "aten::view":
                result = numbers.reshape(args[1])
            else:
                result = node.func(*args, **kwargs)
            numbers = result[position] if isinstance(result, (tuple, list)) else result
        elif tuple(graph.trace.values[node.outputs[position]].shape) != tuple(numbers.shape):
            if node.op != "aten::cat":
                numbers = numbers.expand(graph.trace.values[node.outputs[position]].shape)
            else:
                numbers = _enter_cat(graph, node, source, numbers)
    return set(numbers.unique().tolist()) - {-1}


def _enter_cat(graph: Graph, node: Node, source: int, numbers: torch.Tensor) -> torch.Tensor:
    """The path enters a concatenation: the other parts hold no row of this product."""
    parts = [ref.index for ref in node.args[0]]
    pieces = [
        numbers if index == source else torch.full(graph.trace.values[index].shape, -1)
        for index in parts
    ]
    return torch.cat(pieces, dim=node.bound["dim"])


def _substitute(argument: object, source: int, tensor: torch.Tensor) -> object:
    if isinstance(argument, Ref):
        return tensor
    return argument


def _rescale(graph: Graph, source: _Source, factor: float) -> list[Rescale] | None:
    p = graph.propagation
    node = source.node
    if node.op == "aten::mul":
        index = next(p.roots[i] for i in node.inputs if p.static[i] and i in p.roots)
        return [Rescale(graph.trace.values[index].name, 0, None, factor)]
    weight = node.args[PRODUCTS[node.op]]
    bias = node.args[2] if node.op == "aten::convolution" else (
        node.args[0] if node.op == "aten::addmm" else None
    )
    changes: list[Rescale] = []
    for ref, axis in ((weight, None), (bias, 0)):
        if ref is None:
            continue
        root = p.roots.get(ref.index)
        if root is None or p.uses.get(root, 0) > 1:
            return None
        value = graph.trace.values[root]
        if value.name not in graph.parameters:
            return None
        dim = axis if axis is not None else _output_dim(graph, node, ref, root)
        if dim is None or value.shape[dim] < max(source.rows, default=0) + 1:
            return None
        rows = sorted(source.rows)
        everything = len(rows) == value.shape[dim]
        changes.append(Rescale(value.name, dim, None if everything else rows, factor))
    return changes


def _output_dim(graph: Graph, node: Node, ref: Ref, root: int) -> int | None:
    """The weight's own dimension along which the product's outputs lie."""
    if node.op == "aten::convolution":
        return None if node.bound["transposed"] else 0
    lane = graph.propagation.layout(ref)[-1]
    for dim, own in enumerate(graph.propagation.layout(root)):
        if own is lane and lane is not None:
            return dim
    return None
