"""Views: dimensions merged, cut, moved and broadcast."""

from __future__ import annotations

import math

import numpy as np

from secateur.graph.lanes import Ids, Lane, Layout, spread
from secateur.graph.propagate import Propagation, Split, rule, varying
from secateur.graph.trace import Node, Ref

VIEWS = ("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias")


@rule(*VIEWS)
def view(p: Propagation, node: Node) -> list[Layout]:
    source, target = node.inputs[0], node.outputs[0]
    follow_root(p, node)
    return [reshape(p, p.layout(source), p.shape(source), p.shape(target), node)]


def follow_root(p: Propagation, node: Node) -> None:
    """The result holds the same values as a parameter or buffer, in the same order."""
    root = p.roots.get(node.inputs[0])
    if root is not None:
        p.roots[node.outputs[0]] = root


def blocks(source: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The finest pairs of runs of dimensions whose sizes multiply to the same number.

    Examples
    --------
    >>> blocks((2, 12, 5), (2, 3, 4, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    pairs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        left, right = [], []
        a = b = 1
        if i < len(source):
            left.append(i)
            a *= source[i]
            i += 1
        if j < len(target):
            right.append(j)
            b *= target[j]
            j += 1
        while a != b:
            if a < b:
                left.append(i)
                a *= source[i]
                i += 1
            else:
                right.append(j)
                b *= target[j]
                j += 1
        pairs.append((left, right))
    return pairs


def reshape(
    p: Propagation,
    layout: Layout,
    source: tuple[int, ...],
    target: tuple[int, ...],
    node: Node,
) -> Layout:
    if source == target:
        return layout
    result: Layout = [None] * len(target)
    if 0 in source or 0 in target:
        return result
    pairs = blocks(source, target)
    home = {dim: pair for pair in pairs for dim in pair[0]}
    for left, right in pairs:
        live = [dim for dim in left if layout[dim] is not None and source[dim] > 1]
        if not live:
            continue
        lane = layout[live[0]]
        assert lane is not None
        for dim in live[1:]:
            if node.op in VIEWS:
                p.pin(layout, [dim], "it is flattened together with another prunable dimension")
        wide = [dim for dim in left if source[dim] > 1]
        tall = [dim for dim in right if target[dim] > 1]
        if len(wide) == 1 and len(tall) == 1 and not lane.rows:
            result[tall[0]] = lane
            continue
        if any(row in left and row > live[0] for row in lane.rows):
            lane = p.ledger.aligned(lane)
        p.ledger.ids(lane)
        _place(p, node, lane, live[0], (left, right), home, (source, target), result)
    return result


def _place(
    p: Propagation,
    node: Node,
    lane: Lane,
    dim: int,
    block: tuple[list[int], list[int]],
    home: dict[int, tuple[list[int], list[int]]],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    result: Layout,
) -> None:
    """Put one lane where the view takes it, with the rows that it then has."""
    source, target = shapes
    _, right = block
    involved = [block]
    for row in lane.rows:
        if home[row] not in involved:
            involved.append(home[row])
    involved.sort(key=lambda pair: pair[0][:1] + pair[1][:1])
    before = [at for pair in involved for at in pair[0]]
    after = [at for pair in involved for at in pair[1]]
    full = _everywhere(lane, dim, before, source).reshape([target[at] for at in after])
    axes = varying(full)
    inside = [axis for axis in axes if after[axis] in right]
    if not inside:
        p.ledger.protect(lane, p.why("a view leaves no part of it that can change alone"))
        return
    default = _default_choice([full.shape[axis] for axis in inside])
    choice = min(p.split_choice.get(node.index, default), len(inside) - 1)
    at = inside[len(inside) - 1 - choice]
    fresh_cut = len(inside) > 1
    if fresh_cut:
        cut = p.ledger.ids(lane).ravel()
        p.splits[node.index] = Split(node.index, cut, len(inside), choice)
    outer = [axis for axis in axes if axis not in inside or axis < at]
    inner = [axis for axis in inside if axis > at]
    ids: Ids = np.asarray(full)
    for axis in range(full.ndim):
        if axis not in outer and axis != at and axis not in inner:
            ids = np.take(ids, [0], axis=axis)
    for axis in inner:
        first: Ids = np.take(ids, [0], axis=axis)
        p.ledger.equate(first, ids)
        ids = first
    ids = np.ascontiguousarray(
        ids.transpose([*outer, at, *(a for a in range(ids.ndim) if a not in outer and a != at)])
    ).reshape([*(full.shape[axis] for axis in outer), full.shape[at]])
    rows = tuple(after[axis] for axis in outer)
    result[after[at]] = Lane(full.shape[at], ids, rows)
    if fresh_cut and rows:
        p.ledger.balance(
            list(ids.reshape(-1, full.shape[at])), p.why("a view cuts it into equal rows")
        )


def _default_choice(sizes: list[int]) -> int:
    """Which part of a cut dimension shrinks, counted from the innermost.

    The innermost, as the width of heads does, unless it is a small factor of a larger part: the
    two of a maxout, the four of a pixel shuffle.
    """
    inner = sizes[-1]
    if inner > 8 or inner >= max(sizes):
        return 0
    return len(sizes) - 1 - sizes.index(max(sizes))


def _everywhere(lane: Lane, dim: int, dims: list[int], source: tuple[int, ...]) -> Ids:
    """The identities of a lane, spread over all the given dimensions of its tensor."""
    rows = tuple(at for at in dims if at != dim)
    sizes = {at: source[at] for at in dims}
    ids = spread(lane, rows, sizes)
    order = sorted(range(len(dims)), key=lambda axis: (*rows, dim)[axis])
    return ids.transpose(order)


def permute_layout(layout: Layout, order: list[int]) -> Layout:
    """Move dimensions; rows keep pointing at the dimension that they pointed at."""
    place = {old: new for new, old in enumerate(order)}
    result: Layout = []
    for old in order:
        lane = layout[old]
        if lane is not None and lane.rows:
            rows = [place[row] for row in lane.rows]
            sort = sorted(range(len(rows)), key=rows.__getitem__)
            assert lane.ids is not None
            ids = np.ascontiguousarray(lane.ids.transpose([*sort, len(rows)]))
            lane = Lane(lane.size, ids, tuple(sorted(rows)))
        result.append(lane)
    return result


@rule("aten::permute")
def permute(p: Propagation, node: Node) -> list[Layout]:
    follow_root(p, node)
    layout = p.layout(node.inputs[0])
    order = [dim % len(layout) for dim in node.args[1]]
    return [permute_layout(layout, order)]


@rule("aten::t", "aten::numpy_T")
def t(p: Propagation, node: Node) -> list[Layout]:
    follow_root(p, node)
    layout = p.layout(node.inputs[0])
    return [permute_layout(layout, list(range(len(layout)))[::-1])]


@rule("aten::transpose", "aten::swapaxes")
def transpose(p: Propagation, node: Node) -> list[Layout]:
    follow_root(p, node)
    layout = p.layout(node.inputs[0])
    order = list(range(len(layout)))
    if order:
        a, b = node.args[1] % len(order), node.args[2] % len(order)
        order[a], order[b] = order[b], order[a]
    return [permute_layout(layout, order)]


def insert(layout: Layout, dim: int, lane: Lane | None = None) -> Layout:
    """A layout with one more dimension; rows shift."""
    moved = [_renumber_rows(entry, lambda row: row + (row >= dim)) for entry in layout]
    return [*moved[:dim], lane, *moved[dim:]]


def remove(layout: Layout, dim: int) -> Layout:
    """A layout with one dimension, of which nobody's rows are, taken out."""
    moved = [_renumber_rows(entry, lambda row: row - (row > dim)) for entry in layout]
    return [*moved[:dim], *moved[dim + 1 :]]


def _renumber_rows(lane: Lane | None, to: object) -> Lane | None:
    if lane is None or not lane.rows:
        return lane
    return Lane(lane.size, lane.ids, tuple(to(row) for row in lane.rows))  # type: ignore[operator]


@rule("aten::unsqueeze")
def unsqueeze(p: Propagation, node: Node) -> list[Layout]:
    layout = p.layout(node.inputs[0])
    follow_root(p, node)
    return [insert(layout, node.args[1] % (len(layout) + 1))]


@rule("aten::squeeze")
def squeeze(p: Propagation, node: Node) -> list[Layout]:
    layout, shape = p.layout(node.inputs[0]), p.shape(node.inputs[0])
    dims = node.args[1] if len(node.args) > 1 else range(len(shape))
    chosen = {dim % max(len(shape), 1) for dim in (dims if not isinstance(dims, int) else [dims])}
    follow_root(p, node)
    for dim in sorted(chosen, reverse=True):
        if shape and shape[dim] == 1:
            layout = drop_row(layout, dim, 0)
    return [layout]


def drop_row(layout: Layout, dim: int, index: int) -> Layout:
    """A layout after picking one index of a dimension that is not prunable itself."""
    result = list(layout)
    for at, lane in enumerate(layout):
        if lane is not None and dim in lane.rows:
            assert lane.ids is not None
            axis = lane.rows.index(dim)
            rows = tuple(row for row in lane.rows if row != dim)
            result[at] = Lane(lane.size, np.take(lane.ids, index, axis=axis), rows)
    return remove(result, dim)


@rule("aten::expand", "aten::broadcast_to", "aten::expand_as")
def expand(p: Propagation, node: Node) -> list[Layout]:
    """A dimension broadcast to a size that Python computed binds to whatever it meets."""
    source, target = p.shape(node.inputs[0]), p.shape(node.outputs[0])
    layout = p.layout(node.inputs[0])
    shift = len(target) - len(source)
    follow_root(p, node)
    result: Layout = []
    for dim, size in enumerate(target):
        at = dim - shift
        if at >= 0 and source[at] == size:
            result.append(_renumber_rows(layout[at], lambda row: row + shift))
        else:
            result.append(Lane(size) if size > 1 else None)
    return [result]


@rule("aten::repeat")
def repeat(p: Propagation, node: Node) -> list[Layout]:
    source, target = p.shape(node.inputs[0]), p.shape(node.outputs[0])
    layout = p.aligned(node.inputs[0])
    shift = len(target) - len(source)
    result: Layout = []
    for dim, size in enumerate(target):
        at = dim - shift
        lane = layout[at] if at >= 0 else None
        if at >= 0 and source[at] == size:
            result.append(lane)
        elif lane is not None and source[at] > 1:
            result.append(Lane(size, np.tile(p.ledger.ids(lane), size // source[at])))
        elif at < 0 or source[at] == 1:
            result.append(Lane(size) if size > 1 else None)
        else:
            result.append(None)
    return [result]


@rule("aten::as_strided")
def as_strided(p: Propagation, node: Node) -> list[Layout]:
    """Restriding dimensions of size one, as pooling to one position does, changes nothing."""
    source = node.inputs[0]
    shape = p.shape(source)
    strides = list(node.args[2])
    dense = [math.prod(size for size in shape[dim + 1 :]) for dim in range(len(shape))]
    same = p.shape(node.outputs[0]) == shape and all(
        size == 1 or stride == want
        for size, stride, want in zip(shape, strides, dense, strict=False)
    )
    return [p.layout(source)] if same else p.give_up(node, "its memory is viewed in strides")


@rule("aten::view_as_real", "aten::view_as_complex")
def view_as_pairs(p: Propagation, node: Node) -> list[Layout]:
    layout = p.layout(node.inputs[0])
    if node.op == "aten::view_as_real":
        return [[*layout, None]]
    p.pin(layout, [len(layout) - 1], "its pairs become complex numbers")
    return [drop_row(layout, len(layout) - 1, 0)]


def refs(items: object) -> list[Ref]:
    """The tensors of a list argument."""
    return [item for item in items if isinstance(item, Ref)]  # type: ignore[attr-defined]
