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
    """A parameter that a value is proportional to, and the rows of it that reach the value."""

    name: str
    dim: int
    size: int
    rows: set[int] | None


class _Unfoldable(Exception):
    """Something on the way is not proportional to any parameter that may be changed."""


def fold(graph: Graph, operand: int, factor: float) -> list[Rescale] | None:
    """Rescalings that multiply a value by a factor; None where nothing linear is before it.

    Parameters
    ----------
    graph : Graph
    operand : int
        Value to be multiplied.
    factor : float
    """
    tracer = _Tracer(graph)
    try:
        tracer.back(operand, [])
    except _Unfoldable:
        return None
    return [
        Rescale(
            source.name,
            source.dim,
            None if source.rows is None or len(source.rows) == source.size else sorted(source.rows),
            factor,
        )
        for source in tracer.sources.values()
    ]


Step = tuple[Node, int, int]


class _Tracer:
    """Follows a value back through homogeneous operations to the parameters that make it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.p = graph.propagation
        self.made = {index: node for node in graph.trace.nodes for index in node.outputs}
        self.sources: dict[tuple[str, int], _Source] = {}

    def back(self, value: int, path: list[Step]) -> None:
        node = self.made.get(value)
        if node is None or len(path) > 200:
            raise _Unfoldable
        if node.op in PRODUCTS:
            self._product(node, path)
        elif node.op == "aten::mul":
            self._scaled(node, value, path)
        elif node.op in ("aten::add", "aten::sub"):
            for index in dict.fromkeys(node.inputs):
                if self.p.static[index]:
                    self._bias(node, index, path)
                else:
                    self.back(index, [*path, (node, index, 0)])
        elif node.op in HOMOGENEOUS and not self.p.static[node.inputs[0]]:
            if node.op == "aten::div" and any(not self.p.static[i] for i in node.inputs[1:]):
                raise _Unfoldable
            parts = node.inputs if node.op == "aten::cat" else node.inputs[:1]
            for index in dict.fromkeys(parts):
                self.back(index, [*path, (node, index, node.outputs.index(value))])
        else:
            raise _Unfoldable

    def _product(self, node: Node, path: list[Step]) -> None:
        """Multiply the rows of the weight, and of the bias; or one of two activations."""
        weight = node.args[PRODUCTS[node.op]]
        other = node.args[PRODUCTS[node.op] - 1]
        if not self.p.static[weight.index]:
            if node.op == "aten::bmm" and not self.p.static[other.index]:
                self.back(other.index, [])
                return
            raise _Unfoldable
        if node.op == "aten::convolution":
            if node.bound["transposed"]:
                raise _Unfoldable
            kernel = len(self.p.shape(weight)) - 2
            axis = len(self.p.shape(node.outputs[0])) - kernel - 1
            dim, bias = 0, node.args[2]
        elif node.op == "aten::bmm":
            raise _Unfoldable
        else:
            axis = len(self.p.shape(node.outputs[0])) - 1
            dim, bias = self._output_dim(weight), node.args[0] if node.op == "aten::addmm" else None
        rows = self._rows(node, axis, path)
        self._take(weight, dim, rows)
        if bias is not None:
            self._take(bias, 0, rows)

    def _bias(self, node: Node, index: int, path: list[Step]) -> None:
        """A vector that was added takes part like the product that it was added to."""
        shape, own = self.p.shape(node.outputs[0]), self.p.shape(index)
        if len(own) != 1 or own[0] != shape[-1]:
            raise _Unfoldable
        self._take(Ref(index), 0, self._rows(node, len(shape) - 1, path))

    def _scaled(self, node: Node, value: int, path: list[Step]) -> None:
        """A product with one parameter takes the factor there; with a number it passes through."""
        moving = [index for index in dict.fromkeys(node.inputs) if not self.p.static[index]]
        if len(moving) != 1:
            raise _Unfoldable
        for index in node.inputs:
            root = self.p.roots.get(index)
            if root is not None and self._changeable(root):
                state = self.graph.trace.values[root]
                self.sources[state.name, 0] = _Source(state.name, 0, state.shape[0], None)
                return
        self.back(moving[0], [*path, (node, moving[0], 0)])

    def _changeable(self, root: int) -> bool:
        state = self.graph.trace.values[root]
        used_once = self.p.uses.get(root, 0) == 1
        return used_once and state.name in self.graph.parameters and bool(state.shape)

    def _take(self, ref: Ref, dim: int | None, rows: set[int]) -> None:
        root = self.p.roots.get(ref.index)
        if root is None or dim is None or not self._changeable(root):
            raise _Unfoldable
        state = self.graph.trace.values[root]
        if state.shape[dim] <= max(rows, default=0):
            raise _Unfoldable
        source = self.sources.setdefault(
            (state.name, dim), _Source(state.name, dim, state.shape[dim], set())
        )
        if source.rows is not None:
            source.rows |= rows

    def _output_dim(self, ref: Ref) -> int | None:
        """The weight's own dimension along which the product's outputs lie."""
        root = self.p.roots.get(ref.index)
        lane = self.p.layout(ref)[-1]
        if root is not None and lane is not None:
            for dim, own in enumerate(self.p.layout(root)):
                if own is lane:
                    return dim
        return None

    def _rows(self, start: Node, axis: int, path: list[Step]) -> set[int]:
        """Which features along an axis of a result reach the end of a path."""
        values = self.graph.trace.values
        shape = values[start.outputs[0]].shape
        view = [1] * len(shape)
        view[axis] = -1
        numbers = torch.arange(shape[axis]).reshape(view).expand(shape)
        for node, source, position in reversed(path):
            target = values[node.outputs[position]].shape
            if node.op in VIEWS:
                numbers = numbers.reshape(target)
            elif node.op in MOVES and node.op not in ("aten::_to_copy", "aten::contiguous"):
                args = [numbers if isinstance(a, Ref) else a for a in node.args]
                result = node.func(*args)
                numbers = result[position] if isinstance(result, (tuple, list)) else result
            elif node.op == "aten::cat":
                numbers = self._joined(node, source, numbers)
            elif tuple(numbers.shape) != target:
                numbers = numbers.expand(target)
        return set(numbers.unique().tolist()) - {-1}

    def _joined(self, node: Node, source: int, numbers: torch.Tensor) -> torch.Tensor:
        """The path enters a concatenation: the other parts hold no row of this product."""
        shapes = [(ref.index, self.p.shape(ref)) for ref in node.args[0]]
        pieces = [
            numbers if index == source else torch.full(shape, -1) for index, shape in shapes
        ]
        return torch.cat(pieces, dim=node.bound["dim"])
