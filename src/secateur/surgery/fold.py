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
PARTS = {
    f"aten::{name}"
    for name in "select slice split split_with_sizes unsafe_split chunk unbind".split()
}
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


def fold(graph: Graph, reader: Node, operand: int, factor: float) -> list[Rescale] | None:
    """Rescalings that multiply what an operation scales; None where nothing linear is before it.

    Parameters
    ----------
    graph : Graph
    reader : Node
        The operation that scales.
    operand : int
        Value to be multiplied: a query, or scores.
    factor : float
    """
    # Of a product of activations either side will do: the keys where queries go elsewhere too.
    attends = "scaled_dot_product" in reader.op
    operands = reader.inputs[:2] if attends else [operand, operand]
    for side, value in enumerate(operands):
        tracer = _Tracer(graph, reader, side)
        try:
            tracer.back(value, [])
            tracer.check_nobody_else_reads()
        except _Unfoldable:
            continue
        return [
            Rescale(
                source.name,
                source.dim,
                None
                if source.rows is None or len(source.rows) == source.size
                else sorted(source.rows),
                factor,
            )
            for source in tracer.sources.values()
        ]
    return None


Step = tuple[Node, int, int]


class _Tracer:
    """Follows a value back through homogeneous operations to the parameters that make it."""

    def __init__(self, graph: Graph, reader: Node, side: int) -> None:
        self.graph = graph
        self.reader = reader
        self.side = side
        self.visited: dict[int, Node] = {}
        self.whole: set[int] = set()
        self.p = graph.propagation
        self.made = {index: node for node in graph.trace.nodes for index in node.outputs}
        self.sources: dict[tuple[str, int], _Source] = {}

    def back(self, value: int, path: list[Step]) -> None:
        """Follow a value; every branch must end in a parameter that takes the factor."""
        node = self.made.get(value)
        if node is None or len(path) > 200:
            raise _Unfoldable
        self.visited.setdefault(node.index, node)
        if not any(step.op in PARTS for step, _, _ in path):
            self.whole.add(value)
        if node.op in PRODUCTS:
            self._product(node, path)
        elif node.op == "aten::mul":
            self._scaled(node, path)
        elif node.op in ("aten::add", "aten::sub"):
            for index in dict.fromkeys(node.inputs):
                if self._computed(index):
                    self.back(index, [*path, (node, index, 0)])
                else:
                    self._bias(node, index, path)
        elif node.op in HOMOGENEOUS:
            if node.op == "aten::div" and any(self._computed(i) for i in node.inputs[1:]):
                raise _Unfoldable
            parts = node.inputs if node.op == "aten::cat" else node.inputs[:1]
            for index in dict.fromkeys(parts):
                self.back(index, [*path, (node, index, node.outputs.index(value))])
        else:
            raise _Unfoldable

    def check_nobody_else_reads(self) -> None:
        """What is multiplied must reach the scaling operation only.

        Of values of which a part is taken on the way, others may read the other parts.
        """
        allowed = {self.reader.index, *self.visited}
        for node in self.graph.trace.nodes:
            if node.index not in allowed and not self.whole.isdisjoint(node.inputs):
                raise _Unfoldable

    def _computed(self, index: int) -> bool:
        """Whether a value depends on the input, or is itself a product of parameters."""
        if not self.p.static[index]:
            return True
        node = self.made.get(index)
        return node is not None and (
            node.op in PRODUCTS or any(self._computed(i) for i in node.inputs)
        )

    def _product(self, node: Node, path: list[Step]) -> None:
        """Multiply the rows of the weight, and of the bias; or one of two activations."""
        weight = node.args[PRODUCTS[node.op]].index
        other = node.args[PRODUCTS[node.op] - 1].index
        if self._computed(weight):
            if node.op == "aten::bmm" and self._computed(other):
                self.back((other, weight)[self.side], [])
                return
            raise _Unfoldable
        rank = len(self.p.shape(node.outputs[0]))
        if node.op == "aten::convolution":
            if node.bound["transposed"]:
                raise _Unfoldable
            axis, weight_axis, bias = rank - len(self.p.shape(weight)) + 1, 0, node.args[2]
        elif node.op == "aten::bmm":
            raise _Unfoldable
        else:
            axis, weight_axis = rank - 1, 1
            bias = node.args[0] if node.op == "aten::addmm" else None
        rows = self._rows(node, axis, path)
        self._take(weight, weight_axis, rows)
        if bias is not None:
            self._take(bias.index, 0, rows)

    def _bias(self, node: Node, index: int, path: list[Step]) -> None:
        """A vector that was added takes part like the product that it was added to."""
        shape, own = self.p.shape(node.outputs[0]), self.p.shape(index)
        if len(own) != 1 or own[0] != shape[-1]:
            raise _Unfoldable
        self._take(index, 0, self._rows(node, len(shape) - 1, path))

    def _scaled(self, node: Node, path: list[Step]) -> None:
        """A product with one parameter takes the factor there; with a number it passes through."""
        moving = [index for index in dict.fromkeys(node.inputs) if self._computed(index)]
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

    def _take(self, value: int, axis: int, rows: set[int]) -> None:
        """Note the rows of the parameter behind a weight, or behind a part of it."""
        path: list[Step] = []
        root = value
        while self.graph.trace.values[root].kind != "state":
            node = self.made.get(root)
            if node is None or node.op not in MOVES:
                raise _Unfoldable
            path.append((node, root, node.outputs.index(root)))
            root = node.inputs[0]
        if not self._changeable(root):
            raise _Unfoldable
        state = self.graph.trace.values[root]
        for dim in range(len(state.shape)):
            numbers = self._along(path, _numbered(state.shape, dim))
            lines = numbers.movedim(axis, -1).reshape(-1, numbers.shape[axis])
            if bool((lines == lines[0]).all()) and len(lines[0].unique()) == len(lines[0]):
                source = self.sources.setdefault(
                    (state.name, dim), _Source(state.name, dim, state.shape[dim], set())
                )
                if source.rows is not None:
                    line = lines[0].tolist()
                    source.rows |= {line[row] for row in rows}
                return
        raise _Unfoldable

    def _rows(self, start: Node, axis: int, path: list[Step]) -> set[int]:
        """Which features along an axis of a result reach the end of a path."""
        shape = self.graph.trace.values[start.outputs[0]].shape
        numbers = self._along(path, _numbered(shape, axis))
        reached = torch.zeros(shape[axis] + 1, dtype=torch.bool)
        reached[numbers.reshape(-1)] = True
        return set(reached[:-1].nonzero()[:, 0].tolist())

    def _along(self, path: list[Step], numbers: torch.Tensor) -> torch.Tensor:
        """Run the operations of a path, last one first, on a tensor of row numbers."""
        for node, source, position in reversed(path):
            target = self.graph.trace.values[node.outputs[position]].shape
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
        return numbers

    def _joined(self, node: Node, source: int, numbers: torch.Tensor) -> torch.Tensor:
        """The path enters a concatenation: the other parts hold no row of this product."""
        shapes = [(ref.index, self.p.shape(ref)) for ref in node.args[0]]
        pieces = [numbers if index == source else torch.full(shape, -1) for index, shape in shapes]
        return torch.cat(pieces, dim=node.bound["dim"])


def _numbered(shape: tuple[int, ...], dim: int) -> torch.Tensor:
    """A tensor that holds, everywhere, its own index along one dimension."""
    view = [1] * len(shape)
    view[dim] = -1
    return torch.arange(shape[dim]).reshape(view).expand(shape)
