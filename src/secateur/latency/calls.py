"""The timed operations of a graph: their sizes as they are, and which of them can change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import numpy as np

from secateur.graph.graph import Graph
from secateur.graph.trace import Node, Ref
from secateur.latency.kinds import operation_of
from secateur.latency.operations import Call, Operation, Sizes
from secateur.profiling import node_macs

__all__ = ["TimedCall", "call_of", "timed_calls", "untimed"]


@dataclasses.dataclass(frozen=True)
class TimedCall:
    """One executed operation that takes time.

    Attributes
    ----------
    node : Node
    operation : Operation
    sizes : tuple of int
        As they are now.
    vary : tuple of bool
        Which of them pruning can change.
    """

    node: Node
    operation: Operation
    sizes: Sizes
    vary: tuple[bool, ...]


def call_of(node: Node, shape: Callable[[int], tuple[int, ...]]) -> Call:
    """What an operation is called with where values have these shapes."""
    inputs = [shape(value.index) if isinstance(value, Ref) else None for value in node.args]
    return Call(node, inputs, [shape(index) for index in node.outputs])


def timed_calls(graph: Graph, kinds: Collection[str]) -> list[TimedCall]:
    """Every operation of these kinds that a forward pass runs, in order."""
    values = graph.trace.values
    free = np.zeros(graph.n_classes, dtype=bool)
    for group in graph.groups:
        free[group.classes] = True

    def dense(index: int) -> tuple[int, ...]:
        return values[index].shape

    def narrower(index: int) -> tuple[int, ...]:
        lanes = graph.propagation.layout(index)
        return tuple(
            # Half of it, so that whatever shrinks in step stays in step.
            max(size // 2, 1) if lane is not None and lane.ids is not None
            and free[graph.classes_of(lane)].any() else size
            for size, lane in zip(values[index].shape, lanes, strict=True)
        )  # fmt: skip

    found = []
    for node in graph.trace.nodes:
        if not node.outputs or not values[node.outputs[0]].dtype.is_floating_point:
            continue
        now = operation_of(call_of(node, dense))
        then = operation_of(call_of(node, narrower))
        if now is None or then is None or now[0].kind not in kinds:
            continue
        operation, sizes = now
        vary = tuple(a != b for a, b in zip(sizes, then[1], strict=True))
        found.append(TimedCall(node, operation, sizes, vary))
    return found


def untimed(graph: Graph) -> dict[str, str]:
    """Operations that multiply and accumulate but are of no kind that can be timed, and why."""
    found = {}
    for node in graph.trace.nodes:
        call = call_of(node, lambda index: graph.trace.values[index].shape)
        if node_macs(node.op, call.inputs, call.outputs, node.args) and operation_of(call) is None:
            found[node.op] = "it cannot be run by itself"
    return found
