"""What the sizes of a graph form have to be after a plan."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from secateur.graph.graph import Graph
from secateur.graph.trace import Recorder
from secateur.inputs import Inputs, evaluating
from secateur.surgery.expected import ExpectedSizes
from secateur.surgery.graph_calls import check_inputs
from secateur.surgery.graph_form import GraphForm
from secateur.surgery.lift import PREFIX, named, operation

__all__ = ["record_graph", "sizes_of_nodes"]

NORMS = {"layer_norm", "native_layer_norm", "rms_norm"}
SPLITS = {"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"}


class _Following(fx.Interpreter):
    """Runs a graph module node by node and notes which recorded value each node made."""

    def __init__(self, form: GraphForm, recorder: Recorder) -> None:
        super().__init__(form)
        self.recorder = recorder
        self.made: dict[str, int] = {}

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, Tensor):
            self.made[node.name] = self.recorder.index_of(first)
        return result


def record_graph(form: GraphForm, inputs: Inputs) -> dict[str, int]:
    """Which value of a recorded pass each node of the graph makes."""
    inputs = inputs.fresh()
    recorder = Recorder(form, inputs)
    follower = _Following(form, recorder)
    flat = torch.utils._pytree.tree_leaves((inputs.args, inputs.kwargs))
    with evaluating(form), recorder.watching():
        follower.run(*flat)
    return follower.made


@dataclasses.dataclass
class _Size:
    """One size that a node of the graph holds: an argument, or one entry of a list."""

    node: fx.Node
    argument: str
    index: int | None
    held: Any


def sizes_of_nodes(
    form: GraphForm, graph: Graph, sizes: ExpectedSizes, made: dict[str, int]
) -> dict[str, Any]:
    """New value of every size that a node of the graph holds."""
    rule = _Rule(form, graph, sizes, made)
    found: dict[str, Any] = {}
    for node in form.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is check_inputs:
            key = str(node.args[2].target)
            inputs = rule.inputs(node.args[0], getattr(form, key))
            if inputs != getattr(form, key):
                found[key] = inputs
        for argument, value in named(node).items():
            listed = isinstance(value, (list, tuple))
            for at, entry in enumerate(value if listed else [value]):
                if isinstance(entry, fx.Node) and str(entry.target).startswith(PREFIX):
                    key = str(entry.target)
                    held = getattr(form, key)
                    new = rule(_Size(node, argument, at if listed else None, held))
                    if new != held:
                        found[key] = new
    return found


@dataclasses.dataclass
class _Rule:
    """How a size follows; one that no case covers stays, and the trial run says if it cannot."""

    form: GraphForm
    graph: Graph
    sizes: ExpectedSizes
    made: dict[str, int]

    def __call__(self, size: _Size) -> Any:
        node, held, op = size.node, size.held, operation(size.node)
        source = node.args[0]
        before = self.made.get(source.name) if isinstance(source, fx.Node) else None
        after = self.made.get(node.name)
        if before is not None:
            if op in NORMS:
                return self._trailing(size, before)
            if op.startswith("conv") and size.argument == "groups":
                return self._groups(node, op, before, after)
            if op == "group_norm":
                return self._norm_groups(before, held)
            if op in ("slice", "narrow"):
                return self._bound(size, op, before)
        if after is None:
            return held
        if op in SPLITS:
            return self._parts(held, after)
        return self._result(size, op, before, after)

    def inputs(self, taken: Any, held: list[Any]) -> list[Any]:
        """What the graph asks of its inputs, where the plan reaches them."""
        new = []
        for node, entry in zip(taken, held, strict=True):
            if isinstance(entry, list):
                shape = self.sizes.shape(self.made[node.name])
                entry = [old and size for old, size in zip(entry, shape, strict=True)]
            new.append(entry)
        return new

    def _trailing(self, size: _Size, before: int) -> Any:
        """The dimensions that a norm is taken over, which are the last of what it reads."""
        shape = self.sizes.shape(before)
        if size.index is None:
            return list(shape[-len(size.held) :])
        normalised: Any = size.node.args[1]
        return shape[size.index - len(normalised)]

    def _groups(self, node: fx.Node, op: str, before: int, after: int | None) -> int:
        """As many groups as the weight's channels go into those that are shared out."""
        weight = self.sizes.shape(self.made[str(node.args[1])])
        shared = after if "transpose" in op else before
        assert shared is not None
        return self.sizes.shape(shared)[1 - len(weight)] // weight[1]

    def _norm_groups(self, before: int, held: int) -> int:
        """Whole groups go where the graph chose so; otherwise each gets smaller."""
        trace = self.graph.trace
        for split in self.graph.propagation.splits.values():
            if trace.nodes[split.node].inputs[:1] == [before] and split.choice:
                return held * self.sizes.shape(before)[1] // trace.values[before].shape[1]
        return held

    def _bound(self, size: _Size, op: str, before: int) -> int:
        """Where the ends of a slice move when indices before them are gone."""
        given = named(size.node)
        lane = self.graph.propagation.layout(before)[given.get("dim", 0)]
        if lane is None or lane.ids is None:
            return int(size.held)
        labels = self.graph.coupling.labels[lane.ids.reshape(-1, lane.size)[0]]
        gone = self.sizes.removed[labels]
        if not gone.any():
            return int(size.held)
        start = self._value(given.get("start"))
        if op == "narrow":
            start = int(start) % lane.size
            end, step = start + self._value(given["length"]), 1
        else:
            end, step = self._value(given.get("end")), given.get("step", 1)
        first, last = moved(gone, slice(start, end, step))
        return {"start": first, "end": last, "length": last - first}[size.argument]

    def _value(self, argument: Any) -> Any:
        """A slice's bound: a constant, one of the lifted sizes, or none that is known here."""
        if isinstance(argument, fx.Node):
            return getattr(self.form, str(argument.target), None)
        return argument

    def _parts(self, held: Any, first: int) -> Any:
        """Sizes of the parts of a split, read off the recorded operation that made the first."""
        for recorded in self.graph.trace.nodes:
            if recorded.outputs[:1] == [first]:
                dim = recorded.bound["dim"]
                parts = [self.sizes.shape(index)[dim] for index in recorded.outputs]
                return parts if isinstance(held, list) else parts[0]
        return held

    def _result(self, size: _Size, op: str, before: int | None, after: int) -> Any:
        """An entry that was the size of the result's dimension becomes its new size."""
        dense, new = self.graph.trace.values[after].shape, self.sizes.shape(after)
        held = size.held if isinstance(size.held, list) else [size.held]
        begin = 0 if size.index is None else size.index
        if op == "unflatten" and before is not None:
            rank = len(self.graph.trace.values[before].shape)
            begin += named(size.node)["dim"] % rank
        elif size.index is None and len(held) != len(dense):
            return size.held
        run = slice(begin, begin + len(held))
        entries = [
            n if entry == d else entry
            for entry, d, n in zip(held, dense[run], new[run], strict=True)
        ]
        return entries if isinstance(size.held, list) else entries[0]


def moved(gone: np.ndarray, piece: slice) -> tuple[int, int]:
    """Start and end of the slice of the kept indices that holds what is kept of a slice.

    Examples
    --------
    >>> gone = np.array([True, True, False, False, False, True])
    >>> moved(gone, slice(1, None, 2)), moved(gone, slice(-3, None)), moved(gone, slice(0, 2))
    ((1, 2), (1, 3), (0, 0))
    """
    members = np.arange(len(gone))[piece]
    kept = members[~gone[members]]
    if not len(kept):
        place = int((~gone[: piece.indices(len(gone))[0]]).sum())
        return place, place
    position = np.cumsum(~gone) - 1
    return int(position[kept[0]]), int(position[kept[-1]]) + 1
