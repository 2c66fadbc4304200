"""Concatenation and its inverses: cat, stack, split, slice, select, unbind, flip, roll, pad."""

from __future__ import annotations

import numpy as np

from secateur.graph.lanes import Ids, Lane, Layout
from secateur.graph.propagate import Propagation, rule
from secateur.graph.rules.reshaping import drop_row, insert, refs, remove
from secateur.graph.trace import Node, Ref


def sure_ids(p: Propagation, lane: Lane | None, size: int, reason: str) -> Ids:
    """The identities of a dimension; those of one that cannot change are issued protected."""
    if lane is not None:
        return p.ledger.ids(lane)
    ids = p.ledger.fresh(size)
    p.ledger.protect_ids(ids, p.why(reason))
    return ids


@rule("aten::cat", "aten::concat", "aten::concatenate")
def cat(p: Propagation, node: Node) -> list[Layout]:
    parts = [ref for ref in refs(node.args[0]) if p.shape(ref) != (0,)]
    shape = p.shape(node.outputs[0])
    dim = node.bound["dim"] % len(shape)
    layouts = [p.aligned(ref, dim) for ref in parts]
    if all(layout[dim] is None for layout in layouts):
        joined = None
    else:
        pieces = [
            sure_ids(p, layout[dim], p.shape(ref)[dim], "it is concatenated as it is")
            for layout, ref in zip(layouts, parts, strict=True)
        ]
        joined = Lane(shape[dim], np.concatenate(pieces))
    meeting = []
    for ref, layout in zip(parts, layouts, strict=True):
        own = list(layout)
        own[dim] = None
        p_layout = [
            p.ledger.aligned(lane) if lane is not None and dim in lane.rows else lane
            for lane in own
        ]
        meeting.append((ref, p_layout))
    result: Layout = []
    sizes = dict(enumerate(shape))
    for at in range(len(shape)):
        if at == dim:
            result.append(joined)
            continue
        lanes = [layout[at] for _, layout in meeting]
        if shape[at] == 1:
            result.append(None)
            continue
        result.append(
            p.ledger.unite(lanes, sizes, p.why("it is joined to a dimension that cannot change"))
        )
    return [result]


@rule("aten::stack")
def stack(p: Propagation, node: Node) -> list[Layout]:
    parts = refs(node.args[0])
    shape = p.shape(parts[0])
    dim = node.bound["dim"] % (len(shape) + 1)
    return [insert(p.broadcast(parts, shape), dim)]


def cut(p: Propagation, ref: Ref | int, dim: int, bounds: list[tuple[int, int]]) -> list[Layout]:
    """The layouts of consecutive parts of a dimension; equal parts shrink equally."""
    layout = p.aligned(ref, dim)
    lane = layout[dim]
    if lane is None:
        return [_cut_rows(layout, dim, slice(*bound)) for bound in bounds]
    ids = p.ledger.ids(lane)
    sizes = {stop - start for start, stop in bounds}
    parts = [ids[start:stop] for start, stop in bounds]
    if len(sizes) == 1 and len(bounds) > 1:
        p.ledger.balance(parts, p.why("it is cut into equal parts"))
    results = []
    for part in parts:
        layout = list(layout)
        layout[dim] = Lane(len(part), part) if len(part) > 1 else None
        results.append(layout)
    return results


def _cut_rows(layout: Layout, dim: int, piece: slice) -> Layout:
    """A layout after slicing a dimension that is not prunable, but may be rows of another."""
    result = list(layout)
    for at, lane in enumerate(layout):
        if lane is not None and dim in lane.rows:
            assert lane.ids is not None
            axis = lane.rows.index(dim)
            index = tuple(piece if a == axis else slice(None) for a in range(lane.ids.ndim))
            ids, rows = lane.ids[index], lane.rows
            if ids.shape[axis] == 1:
                ids, rows = np.take(ids, 0, axis=axis), tuple(row for row in rows if row != dim)
            result[at] = Lane(lane.size, ids, rows)
    return result


@rule("aten::split", "aten::split_with_sizes", "aten::unsafe_split", "aten::chunk",
      "aten::unsafe_chunk", "aten::unsafe_split_with_sizes", "aten::tensor_split",
      "aten::split_copy", "aten::split_with_sizes_copy")  # fmt: skip
def split(p: Propagation, node: Node) -> list[Layout]:
    source = node.inputs[0]
    dim = node.bound["dim"] % len(p.shape(source))
    bounds, start = [], 0
    for index in node.outputs:
        stop = start + p.shape(index)[dim]
        bounds.append((start, stop))
        start = stop
    return cut(p, source, dim, bounds)


@rule("aten::slice", "aten::slice_copy")
def slice_(p: Propagation, node: Node) -> list[Layout]:
    source, target = node.inputs[0], node.outputs[0]
    shape = p.shape(source)
    dim = node.bound["dim"] % len(shape)
    start, stop, step = node.bound["start"], node.bound["end"], node.bound["step"]
    piece = slice(start, stop, step)
    first, last, _ = piece.indices(shape[dim])
    layout = p.layout(source)
    lane = layout[dim]
    if p.shape(target) == shape:
        return [layout]
    if lane is None:
        return [_cut_rows(layout, dim, piece)]
    layout = p.aligned(source, dim)
    lane = layout[dim]
    assert lane is not None
    ids = p.ledger.ids(lane)
    if step > 1:
        _keep_phase(p, ids, first, step)
    else:
        width = last - first
        if width and shape[dim] % width == 0 and first % width == 0:
            p.ledger.balance(list(ids.reshape(-1, width)), p.why("it is cut into equal parts"))
    result = list(layout)
    part = ids[piece]
    result[dim] = Lane(len(part), part) if len(part) > 1 else None
    return [result]


def _keep_phase(p: Propagation, ids: Ids, first: int, step: int) -> None:
    """Every step-th index is picked: whole strides must go together, or the phase shifts."""
    begin = first if first >= step else 0
    p.ledger.protect_ids(ids[:begin], p.why("it lies before the start of a strided slice"))
    body = ids[begin:]
    whole = len(body) // step * step
    strides = body[:whole].reshape(-1, step)
    for column in range(1, step):
        p.ledger.equate(strides[:, 0], strides[:, column])
    p.ledger.protect_ids(body[whole:], p.why("it is the unfinished end of a strided slice"))


@rule("aten::glu")
def glu(p: Propagation, node: Node) -> list[Layout]:
    """One half of a dimension gates the other."""
    source, target = node.inputs[0], node.outputs[0]
    shape = p.shape(source)
    dim = node.bound["dim"] % len(shape)
    half = shape[dim] // 2
    first, second = cut(p, source, dim, [(0, half), (half, 2 * half)])
    result: Layout = []
    sizes = dict(enumerate(p.shape(target)))
    for at, (a, b) in enumerate(zip(first, second, strict=True)):
        single = sizes[at] == 1
        result.append(None if single else p.ledger.unite([a, b], sizes, p.why("it is gated")))
    return [result]


@rule("aten::select", "aten::select_copy")
def select(p: Propagation, node: Node) -> list[Layout]:
    source = node.inputs[0]
    shape = p.shape(source)
    dim, index = node.args[1] % len(shape), node.args[2]
    return [pick(p, source, dim, index)]


def pick(p: Propagation, source: Ref | int, dim: int, index: int) -> Layout:
    """The layout after taking one index; the index keeps its place from its own end."""
    layout = p.layout(source)
    if layout[dim] is not None:
        layout = p.aligned(source, dim)
        lane = layout[dim]
        assert lane is not None
        ids = p.ledger.ids(lane)
        near = ids[: index + 1] if index >= 0 else ids[index:]
        p.ledger.protect_ids(near, p.why("an index in the code counts from that end to it"))
        return remove([_flat(p, entry, dim) for entry in layout], dim)
    return drop_row(layout, dim, index)


def _flat(p: Propagation, lane: Lane | None, dim: int) -> Lane | None:
    return p.ledger.aligned(lane) if lane is not None and dim in lane.rows else lane


@rule("aten::unbind", "aten::unbind_copy")
def unbind(p: Propagation, node: Node) -> list[Layout]:
    source = node.inputs[0]
    shape = p.shape(source)
    dim = node.bound["dim"] % len(shape)
    layout = p.layout(source)
    if layout[dim] is not None:
        p.pin(layout, [dim], "the code holds its parts one by one")
        layout = [_flat(p, entry, dim) for entry in layout]
        return [remove(layout, dim) for _ in node.outputs]
    return [drop_row(layout, dim, index) for index in range(len(node.outputs))]


@rule("aten::flip")
def flip(p: Propagation, node: Node) -> list[Layout]:
    layout = p.aligned(node.inputs[0])
    for dim in node.args[1]:
        lane = layout[dim]
        if lane is not None:
            layout[dim] = Lane(lane.size, p.ledger.ids(lane)[::-1])
    return [layout]


@rule("aten::rot90")
def rot90(p: Propagation, node: Node) -> list[Layout]:
    layout = p.aligned(node.inputs[0])
    dims = [dim % len(layout) for dim in node.bound["dims"]]
    p.pin(layout, dims, "it is rotated")
    return [[None if dim in dims else lane for dim, lane in enumerate(layout)]]


@rule("aten::roll")
def roll(p: Propagation, node: Node) -> list[Layout]:
    source = node.inputs[0]
    shape = p.shape(source)
    shifts, dims = node.bound["shifts"], node.bound["dims"]
    if not dims:
        return p.give_up(node, "it is rolled through all dimensions at once")
    layout = p.aligned(source)
    for shift, dim in zip(shifts, dims, strict=True):
        lane = layout[dim]
        if lane is None:
            continue
        ids = p.ledger.ids(lane)
        by = shift % shape[dim]
        wrapped = ids[len(ids) - by :] if shift > 0 else ids[: len(ids) - by]
        if by:
            p.ledger.protect_ids(wrapped, p.why("a roll by a fixed count wraps it around"))
        layout[dim] = Lane(lane.size, np.roll(ids, shift))
    return [layout]


@rule("aten::constant_pad_nd")
def constant_pad(p: Propagation, node: Node) -> list[Layout]:
    return pad(p, node, wraps=False)


@rule("aten::reflection_pad1d", "aten::reflection_pad2d", "aten::reflection_pad3d",
      "aten::replication_pad1d", "aten::replication_pad2d", "aten::replication_pad3d",
      "aten::pad", "aten::_pad_enum")  # fmt: skip
def mirror_pad(p: Propagation, node: Node) -> list[Layout]:
    return pad(p, node, wraps=True)


def pad(p: Propagation, node: Node, wraps: bool) -> list[Layout]:
    source, target = node.inputs[0], node.outputs[0]
    shape, wanted = p.shape(source), p.shape(target)
    amounts = node.args[1]
    layout = p.aligned(source)
    for pair in range(len(amounts) // 2):
        dim = len(shape) - 1 - pair
        lane = layout[dim]
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        if lane is None or (not before and not after):
            continue
        if wraps or before < 0 or after < 0:
            p.pin(layout, [dim], "it is padded with its own values or cropped")
            layout[dim] = None
            continue
        reason = "it is padding of a fixed width"
        ids = [
            sure_ids(p, None, before, reason),
            p.ledger.ids(lane),
            sure_ids(p, None, after, reason),
        ]
        layout[dim] = Lane(wanted[dim], np.concatenate(ids))
    return [layout]
