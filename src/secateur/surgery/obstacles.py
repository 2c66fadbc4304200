"""What to change in the graph when the model's code cannot follow a plan."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from secateur.graph.constraints import Constraint, Fix, SameSize
from secateur.graph.graph import Graph
from secateur.graph.trace import Node
from secateur.surgery.expected import ExpectedSizes
from secateur.surgery.trial import INCIDENTAL, Obstacle

__all__ = ["Amendments", "amend"]

Place = tuple[int, int]


@dataclasses.dataclass
class Amendments:
    """Everything that trial runs have taught about a model so far."""

    constraints: list[Constraint] = dataclasses.field(default_factory=list)
    split_choice: dict[int, int] = dataclasses.field(default_factory=dict)
    tried: dict[tuple[str, int, str], int] = dataclasses.field(default_factory=dict)


def amend(
    known: Amendments, model: nn.Module, graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle
) -> bool:
    """Add what gets past an obstacle, at every place of the model with the same code.

    In this order: tie the size to the one that the code takes it from; shrink the outer part
    of the view instead of the inner one (whole heads); fix the dimension.

    Returns
    -------
    bool
        False when nothing is left to try.
    """
    node = obstacle.node
    key = _site_of(graph, model)[node.index]
    alike = [n for n in graph.trace.nodes if _site_of(graph, model).get(n.index) == key]
    level = known.tried.get(key, 0)
    while level < 3:
        level += 1
        known.tried[key] = level
        if level == 1 and _link(known, graph, sizes, obstacle, alike):
            return True
        if level == 2 and _flip(known, graph, sizes, alike):
            return True
        if level == 3 and _fix(known, graph, sizes, obstacle, alike):
            return True
    return _fix(known, graph, sizes, obstacle, [node])


def _site_of(graph: Graph, model: nn.Module) -> dict[int, tuple[str, int, str]]:
    """For every operation: its module's class, its place in that module's code, its name."""
    cached: dict[int, tuple[str, int, str]] | None = graph.__dict__.get("_sites")
    if cached is None:
        kinds = {path: type(module).__name__ for path, module in model.named_modules()}
        counts: dict[str, int] = {}
        cached = {}
        for node in graph.trace.nodes:
            if node.op in INCIDENTAL:
                continue
            place = counts.get(node.module, 0)
            counts[node.module] = place + 1
            cached[node.index] = (kinds.get(node.module, ""), place, node.op)
        graph.__dict__["_sites"] = cached
    return cached


def _changing(graph: Graph, sizes: ExpectedSizes, node: Node) -> list[Place]:
    """(value, dim) of everything around an operation whose size changes."""
    values = graph.trace.values
    found = []
    for index in (*node.outputs, *node.inputs):
        for dim, (old, new) in enumerate(
            zip(values[index].shape, sizes.shape(index), strict=True)
        ):
            if old != new:
                found.append((index, dim))
    return found


def _ids(graph: Graph, place: Place) -> np.ndarray | None:
    lane = graph.propagation.layout(place[0])[place[1]]
    return None if lane is None or lane.ids is None else lane.ids


def _link(
    known: Amendments, graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle, alike: list[Node]
) -> bool:
    """Tie the size to another one: an earlier use of an attribute, or the module's input."""
    added = False
    for node in alike:
        places = _changing(graph, sizes, node)
        if not places:
            continue
        place = places[0]
        own = _ids(graph, place)
        partner = _partner(graph, obstacle, node, place)
        if own is None or partner is None:
            continue
        reason = f"the code of {node.module or 'the model'} takes both sizes from one"
        link = SameSize(place, partner, reason)
        if link not in known.constraints:
            known.constraints.append(link)
            added = True
    return added


def _partner(graph: Graph, obstacle: Obstacle, node: Node, place: Place) -> Place | None:
    own = _ids(graph, place)
    assert own is not None
    classes = set(graph.coupling.labels[own].ravel().tolist())
    candidates: list[Place] = []
    if obstacle.holder is not None:
        shift = _shift(graph, obstacle, node)
        if shift is not None:
            candidates.append(shift)
    for index in graph.trace.module_inputs.get(node.module, ()):
        candidates += [(index, dim) for dim in range(len(graph.trace.values[index].shape))]
    for candidate in candidates:
        other = _ids(graph, candidate)
        if other is None or other.size != own.size:
            continue
        if classes.isdisjoint(graph.coupling.labels[other].ravel().tolist()):
            return candidate
    return None


def _shift(graph: Graph, obstacle: Obstacle, node: Node) -> Place | None:
    """The place in this module that corresponds to the holder in the obstacle's module."""
    assert obstacle.holder is not None
    made = {index: n for n in graph.trace.nodes for index in n.outputs}
    value, dim = obstacle.holder
    source = made.get(value)
    if source is None:
        return None
    if node.index == obstacle.node.index:
        return obstacle.holder
    at = node.index + source.index - obstacle.node.index
    if not 0 <= at < len(graph.trace.nodes):
        return None
    twin = graph.trace.nodes[at]
    position = source.outputs.index(value)
    if twin.op != source.op or len(twin.outputs) <= position:
        return None
    return twin.outputs[position], dim


def _flip(
    known: Amendments, graph: Graph, sizes: ExpectedSizes, alike: list[Node]
) -> bool:
    """Remove whole rows of a view instead of part of every row."""
    flipped = False
    splits = graph.propagation.splits
    for node in alike:
        ids = [_ids(graph, place) for place in _changing(graph, sizes, node)]
        meant: set[int] = set()
        for array in ids:
            if array is not None:
                meant |= set(graph.coupling.labels[array].ravel().tolist())
        for split in splits.values():
            at = graph.split_choice.get(split.node, 0)
            touched = graph.coupling.labels[split.ids].tolist()
            if at + 1 < split.choices and not meant.isdisjoint(touched):
                known.split_choice[split.node] = at + 1
                flipped = True
    return flipped


def _fix(
    known: Amendments, graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle, alike: list[Node]
) -> bool:
    added = False
    for node in alike:
        where = node.module or "the model"
        op = node.op.removeprefix("aten::")
        reason = f"the code of {where} fixes its size ({op}: {obstacle.message})"
        for place in _changing(graph, sizes, node):
            fix = Fix(*place, reason)
            if _ids(graph, place) is not None and not any(
                isinstance(c, Fix) and (c.value, c.dim) == place for c in known.constraints
            ):
                known.constraints.append(fix)
                added = True
    return added
