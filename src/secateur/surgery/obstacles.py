"""What to change in the graph when the model's code cannot follow a plan."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from secateur.graph.constraints import Constraint, Fix, SameSize
from secateur.graph.graph import Graph
from secateur.graph.trace import INCIDENTAL, Node
from secateur.surgery.attempt import Obstacle
from secateur.surgery.compare import sizes_in
from secateur.surgery.expected import ExpectedSizes

__all__ = ["Amendments", "amend", "fix_parting"]

Place = tuple[int, int]

REACH = 200


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
    # Each further time takes twice as many places along, so that depth costs few rounds.
    known.tried[key] = level + 1
    along = alike[alike.index(node) :][: 2 ** (level - 3)]
    return _fix_near(known, graph, sizes, obstacle, along)


def _fix_near(
    known: Amendments, graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle, along: list[Node]
) -> bool:
    """Fix what meets at the operation or, where that explains nothing, in its module."""
    if _fix(known, graph, sizes, obstacle, along[:1]):
        _fix(known, graph, sizes, obstacle, along[1:])
        return True
    paths = dict.fromkeys((obstacle.module, *(node.module for node in along)))
    fixed = [_fix_module(known, graph, sizes, obstacle, path) for path in paths]
    return any(fixed)


def fix_parting(known: Amendments, graph: Graph, sizes: ExpectedSizes, parted: Obstacle) -> bool:
    """Fix the sizes that code asks about before it takes one way or another.

    Returns
    -------
    bool
        False when nothing is left to fix.
    """
    return _fix_near(known, graph, sizes, parted, [parted.node])


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
    around = dict.fromkeys((*node.outputs, *node.inputs))
    return [place for index in around for place in _changed_dims(graph, sizes, index)]


def _changed_dims(graph: Graph, sizes: ExpectedSizes, index: int) -> list[Place]:
    pairs = zip(graph.trace.values[index].shape, sizes.shape(index), strict=True)
    return [(index, dim) for dim, (old, new) in enumerate(pairs) if old != new]


def _ids(graph: Graph, place: Place) -> np.ndarray | None:
    layout = graph.propagation.layout(place[0])
    lane = layout[place[1]] if place[1] < len(layout) else None
    return None if lane is None or lane.ids is None else lane.ids


def _link(
    known: Amendments, graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle, alike: list[Node]
) -> bool:
    """Tie the size to another one: an earlier use of an attribute, or a tensor it is read off."""
    places = _changing(graph, sizes, obstacle.node)
    if not places:
        return False
    partner = _partner(graph, sizes, obstacle, places[0])
    if partner is None:
        return False
    added = False
    for node in alike:
        place = _shift(graph, obstacle.node, node, places[0])
        other = _shift(graph, obstacle.node, node, partner)
        if place is None or other is None:
            continue
        reason = f"the code of {node.module or 'the model'} takes both sizes from one"
        link = SameSize(place, other, reason)
        if link not in known.constraints and _compatible(graph, place, other):
            known.constraints.append(link)
            added = True
    return added


def _compatible(graph: Graph, place: Place, other: Place) -> bool:
    """Whether two dimensions can be of one size, each losing indices of its own."""
    a, b = _ids(graph, place), _ids(graph, other)
    if a is None or b is None or max(a.size, b.size) % min(a.size, b.size):
        return False
    labels = graph.coupling.labels
    return set(labels[a].ravel().tolist()).isdisjoint(labels[b].ravel().tolist())


def _partner(graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle, place: Place) -> Place | None:
    """The dimension that the code took the size from."""
    held = [] if obstacle.holder is None else [obstacle.holder]
    for candidate in (*held, *_read_off(graph, sizes, obstacle)):
        if _compatible(graph, place, candidate):
            return candidate
    return None


def _read_off(graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle) -> list[Place]:
    """Dimensions near an operation that have the sizes which its code asked for, nearest first."""
    node = obstacle.node
    asked = [
        (old, new)
        for old, new in zip(sizes_in(node.args), obstacle.called, strict=False)
        if old != new and old > 0 and new > 0
    ]
    earlier = graph.trace.nodes[: node.index][::-1]
    own = [other for other in earlier if other.module == node.module]
    near = dict.fromkeys(graph.trace.module_inputs.get(node.module, ()))
    for other in (*own, *earlier[:REACH]):
        near |= dict.fromkeys((*other.outputs, *other.inputs))
    found: list[Place] = []
    for index in near:
        for dim, (dense, now) in enumerate(
            zip(graph.trace.values[index].shape, sizes.shape(index), strict=True)
        ):
            # A size is used as it is, or divided by a count: C, or C // heads.
            if dense != now and any(
                dense % old == 0 and now // (dense // old) == new for old, new in asked
            ):
                found.append((index, dim))
    return found


def _shift(graph: Graph, here: Node, there: Node, place: Place) -> Place | None:
    """The place that stands to one operation as the given place stands to another."""
    if here.index == there.index:
        return place
    value, dim = place
    given = graph.trace.module_inputs.get(here.module, [])
    if value in given:
        twins = graph.trace.module_inputs.get(there.module, [])
        at = given.index(value)
        return (twins[at], dim) if at < len(twins) else None
    for kind in ("outputs", "inputs"):
        for source in graph.trace.nodes[: here.index + 1][::-1]:
            listed = getattr(source, kind)
            if value in listed:
                index = there.index + source.index - here.index
                if not 0 <= index < len(graph.trace.nodes):
                    return None
                twin = graph.trace.nodes[index]
                position = listed.index(value)
                if twin.op != source.op or len(getattr(twin, kind)) <= position:
                    return None
                return getattr(twin, kind)[position], dim
    return None


def _flip(known: Amendments, graph: Graph, sizes: ExpectedSizes, alike: list[Node]) -> bool:
    """Remove whole rows of a view instead of part of every row."""
    splits = graph.propagation.splits
    chosen: list[int] = []
    for node in alike:
        ids = [_ids(graph, place) for place in _changing(graph, sizes, node)]
        meant: set[int] = set()
        for array in ids:
            if array is not None:
                meant |= set(graph.coupling.labels[array].ravel().tolist())
        for at, split in splits.items():
            touched = graph.coupling.labels[split.ids].tolist()
            if split.choices > 1 and not meant.isdisjoint(touched):
                chosen.append(at)
    # Query, key and value are viewed alike: heads that one of them keeps, all must keep.
    choices = {_view(graph, at): splits[at].choice + 1 for at in chosen}
    for at, split in splits.items():
        choice = choices.get(_view(graph, at))
        if split.choices > 1 and choice is not None:
            known.split_choice[at] = choice % split.choices
    return bool(chosen)


def _view(graph: Graph, at: int) -> tuple[str, tuple[int, ...]]:
    """Whose code cuts a dimension, and into what shape."""
    node = graph.trace.nodes[at]
    return node.module, graph.trace.values[node.outputs[0]].shape


def _fix(
    known: Amendments, graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle, alike: list[Node]
) -> bool:
    added = False
    blind = not _changing(graph, sizes, obstacle.node)
    for node in alike:
        where = node.module or "the model"
        op = node.op.removeprefix("aten::")
        reason = f"the code of {where} fixes its size ({op}: {obstacle.message})"
        places = _changing(graph, sizes, node)
        if obstacle.outputs:
            places = [
                (node.outputs[output], dim)
                for output, dim in obstacle.outputs
                if output < len(node.outputs)
            ]
        if not places and blind:
            # The code took a size off something that it was given.
            given = graph.trace.module_inputs.get(node.module, ())
            places = [place for index in given for place in _changed_dims(graph, sizes, index)]
            places = places or _read_off(graph, sizes, obstacle)[:1]
        for place in places:
            fix = Fix(*place, reason)
            if _ids(graph, place) is not None and not any(
                isinstance(c, Fix) and (c.value, c.dim) == place for c in known.constraints
            ):
                known.constraints.append(fix)
                added = True
    return added


def _fix_module(
    known: Amendments, graph: Graph, sizes: ExpectedSizes, obstacle: Obstacle, path: str
) -> bool:
    """Where nothing near the operation explains it: fix every size that a module meets."""
    met = dict.fromkeys(graph.trace.module_inputs.get(path, ()))
    for node in graph.trace.nodes:
        if node.module == path or node.module.startswith(f"{path}."):
            met |= dict.fromkeys((*node.inputs, *node.outputs))
    where = path or "the model"
    reason = f"the code of {where} fixes its sizes ({obstacle.message})"
    held = {(c.value, c.dim) for c in known.constraints if isinstance(c, Fix)}
    places = [place for index in met for place in _changed_dims(graph, sizes, index)]
    fresh = [place for place in places if place not in held and _ids(graph, place) is not None]
    known.constraints.extend(Fix(*place, reason) for place in fresh)
    return bool(fresh)
