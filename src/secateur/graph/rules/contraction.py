"""Matrix products and convolutions: contracted dimensions are tied and end, others go on."""

from __future__ import annotations

import numpy as np

from secateur.graph.lanes import Lane, Layout
from secateur.graph.propagate import Propagation, Split, rule
from secateur.graph.trace import Node, Ref

FIXED = "it is multiplied with a dimension that cannot change"


def produce(p: Propagation, ref: Ref, dim: int) -> None:
    """Note that a parameter's dimension makes new features."""
    root = p.roots.get(ref.index)
    if root is not None and p.value(root).name:
        p.producers.setdefault(p.value(root).name, set()).add(dim)


def own_dim(p: Propagation, ref: Ref, dim: int) -> int | None:
    """The dimension of the parameter behind a (possibly transposed) view of it."""
    lane = p.layout(ref)[dim]
    root = p.roots.get(ref.index)
    if lane is None or root is None:
        return None
    for at, own in enumerate(p.layout(root)):
        if own is lane:
            return at
    return None


def contract(p: Propagation, a: Ref, dim_a: int, b: Ref, dim_b: int, batch: dict[int, int]) -> None:
    """Tie the contracted dimensions of two factors; rows may run over shared batch dims.

    Parameters
    ----------
    batch : dict
        Batch dimension to its size, numbered alike in both factors.
    """
    lanes = []
    for ref, dim in ((a, dim_a), (b, dim_b)):
        lane = p.layout(ref)[dim]
        if lane is not None and any(row not in batch for row in lane.rows):
            lane = p.ledger.aligned(lane)
        lanes.append(lane)
    if p.shape(a)[dim_a] == 1:
        return
    if not (p.static[a.index] or p.static[b.index]):
        p.mixes([(a.index, dim_a), (b.index, dim_b)], exact_with_zeros=True)
    p.contracts((a.index, dim_a), (b.index, dim_b))
    p.ledger.unite(lanes, batch, p.why(FIXED))


def carried(p: Propagation, ref: Ref, dim: int, batch: dict[int, int]) -> Lane | None:
    """The lane of a factor's dimension that goes on into the product."""
    lane = p.layout(ref)[dim]
    if lane is not None and any(row not in batch for row in lane.rows):
        return p.ledger.aligned(lane)
    return lane


def matrix_product(p: Propagation, a: Ref, b: Ref) -> Layout:
    """``[*batch, m, k] @ [*batch, k, n]``."""
    rank = len(p.shape(a))
    batch = {dim: p.shape(a)[dim] for dim in range(rank - 2)}
    at = own_dim(p, b, rank - 1)
    if at is not None:
        p.producers.setdefault(p.value(p.roots[b.index]).name, set()).add(at)
    at = own_dim(p, a, rank - 2)
    if at is not None:
        p.producers.setdefault(p.value(p.roots[a.index]).name, set()).add(at)
    contract(p, a, rank - 1, b, rank - 2, batch)
    shared: Layout = []
    for dim in batch:
        lanes = [p.layout(a)[dim], p.layout(b)[dim]]
        if p.shape(a)[dim] == 1:
            shared.append(None)
        else:
            shared.append(p.ledger.unite(lanes, batch, p.why(FIXED)))
    return [*shared, carried(p, a, rank - 2, batch), carried(p, b, rank - 1, batch)]


def add_bias(p: Propagation, layout: Layout, bias: Ref, node: Node) -> Layout:
    """Tie an added term that broadcasts against the product."""
    shape = p.shape(node.outputs[0])
    own = p.shape(bias)
    result = list(layout)
    for at, size in enumerate(own):
        dim = at + len(shape) - len(own)
        if size == shape[dim] and size > 1:
            result[dim] = p.ledger.unite(
                [layout[dim], p.layout(bias)[at]], dict(enumerate(shape)), p.why(FIXED)
            )
    return result


@rule("aten::mm", "aten::bmm")
def mm(p: Propagation, node: Node) -> list[Layout]:
    return [matrix_product(p, node.args[0], node.args[1])]


@rule("aten::addmm", "aten::baddbmm")
def addmm(p: Propagation, node: Node) -> list[Layout]:
    layout = matrix_product(p, node.args[1], node.args[2])
    return [add_bias(p, layout, node.args[0], node)]


@rule("aten::_grouped_mm")
def grouped_mm(p: Propagation, node: Node) -> list[Layout]:
    """``[rows, k] @ [experts, k, n]``: every run of rows by a matrix of its own."""
    a, b = node.args[:2]
    if len(p.shape(a)) != 2 or len(p.shape(b)) != 3:
        return p.give_up(node, "its matrices are grouped another way than by rows")
    layout = p.layout(b)
    p.pin(layout, [0], "a matrix of it is taken by value")
    at = own_dim(p, b, 2)
    if at is not None:
        p.producers.setdefault(p.value(p.roots[b.index]).name, set()).add(at)
    p.ledger.unite([p.aligned(a)[1], p.aligned(b)[1]], {}, p.why(FIXED))
    p.contracts((a.index, 1), (b.index, 1))
    return [[None, p.aligned(b)[2]]]


@rule("aten::mv", "aten::addmv")
def mv(p: Propagation, node: Node) -> list[Layout]:
    a, b = node.args[-2:]
    contract(p, a, 1, b, 0, {})
    layout = [carried(p, a, 0, {})]
    return [add_bias(p, layout, node.args[0], node) if node.op == "aten::addmv" else layout]


@rule("aten::dot", "aten::vdot")
def dot(p: Propagation, node: Node) -> list[Layout]:
    contract(p, node.args[0], 0, node.args[1], 0, {})
    return [[]]


@rule("aten::addr", "aten::ger")
def outer(p: Propagation, node: Node) -> list[Layout]:
    a, b = node.args[-2:]
    layout: Layout = [p.layout(a)[0], p.layout(b)[0]]
    return [add_bias(p, layout, node.args[0], node) if node.op == "aten::addr" else layout]


@rule("aten::_trilinear")
def trilinear(p: Propagation, node: Node) -> list[Layout]:
    """The product inside nn.Bilinear: three factors, each broadcast over some dimensions."""
    factors, sums = node.args[:3], set(node.args[6])
    rank = max(len(p.shape(f)) + len(e) for f, e in zip(factors, node.args[3:6], strict=True))
    columns: list[list[Lane | None]] = [[] for _ in range(rank)]
    summed: list[list[tuple[int, int]]] = [[] for _ in range(rank)]
    for factor, expanded in zip(factors, node.args[3:6], strict=True):
        own = iter(p.aligned(factor))
        at = 0
        for dim in range(rank):
            if dim not in expanded:
                columns[dim].append(next(own))
                summed[dim].append((factor.index, at))
                at += 1
    for dim in sums:
        p.contracts(*summed[dim])
    root = p.roots.get(factors[1].index)
    if root is not None:
        p.producers.setdefault(p.value(root).name, set()).add(0)
    sizes: dict[int, int] = {}
    united = [p.ledger.unite(column, sizes, p.why(FIXED)) for column in columns]
    return [[lane for dim, lane in enumerate(united) if dim not in sums]]


@rule("aten::convolution", "aten::_convolution", "aten::mkldnn_convolution")
def convolution(p: Propagation, node: Node) -> list[Layout]:
    x, weight, bias = node.args[0], node.args[1], node.args[2]
    transposed, groups = node.bound.get("transposed", False), node.bound["groups"]
    kernel = len(p.shape(weight)) - 2
    layout = p.aligned(x)
    channel = len(layout) - kernel - 1
    spatial: Layout = [None] * kernel
    if _pointwise(p, node, kernel):
        spatial = layout[channel + 1 :]
    else:
        p.pin(layout, range(channel + 1, len(layout)), "a convolution slides along it")
    w = p.aligned(weight)
    bound = [dim for dim in range(2, kernel + 2) if (lane := w[dim]) and lane.ids is not None]
    p.pin(w, bound, "it is a position of the kernel")
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    produce(p, weight, out_dim)
    if not p.static[weight.index]:
        p.mixes([(x.index, channel)], exact_with_zeros=True)
    if groups == 1:
        if p.shape(weight)[in_dim] > 1:
            p.ledger.unite([layout[channel], w[in_dim]], {}, p.why(FIXED))
            p.contracts((x.index, channel), (weight.index, in_dim))
        out = w[out_dim]
    elif transposed:
        out = _grouped(p, node, layout, channel, w[1], w[0], groups, p.shape(weight)[1], True)
    else:
        per = p.shape(weight)[0] // groups
        out = _grouped(p, node, layout, channel, w[0], w[1], groups, per, False)
    if bias is not None and out is not None:
        p.ledger.unite([out, p.aligned(bias)[0]], {}, p.why(FIXED))
    result: Layout = [None] * len(p.shape(node.outputs[0]))
    result[:channel] = layout[:channel]
    result[channel] = out if p.shape(node.outputs[0])[channel] > 1 else None
    result[channel + 1 :] = spatial
    return [result]


def _pointwise(p: Propagation, node: Node, kernel: int) -> bool:
    """Whether every position is treated by itself: kernel 1, stride 1, no padding."""
    size = p.shape(node.args[1])[2:]
    return (
        all(n == 1 for n in (*size, *node.bound["stride"]))
        and not any(node.bound["padding"])
        and not any(node.bound.get("output_padding") or ())
    )


def _grouped(
    p: Propagation,
    node: Node,
    layout: Layout,
    channel: int,
    out_lane: Lane | None,
    in_lane: Lane | None,
    groups: int,
    out_per: int,
    transposed: bool,
) -> Lane | None:
    """Grouped convolution: inside every group alike, or whole groups where nothing else goes.

    A plain grouped weight is ``[groups * out_per, in_per, ...]``, a transposed one
    ``[groups * in_per, out_per, ...]``: the short dimension is shared by all groups, so its
    indices are tied across groups; the long one only has to lose equally many in each.
    """
    x = layout[channel]
    in_per = p.shape(node.args[0])[channel] // groups
    whole = p.split_choice.get(node.index, 0) > 0 or in_per == 1
    reason = p.why("a grouped convolution gives every group equally many")
    taken: np.ndarray | None = None
    if not whole:
        in_dim = 0 if transposed else 1
        p.contracts((node.args[0].index, channel), (node.args[1].index, in_dim))
    if x is not None:
        taken = p.ledger.ids(x).reshape(groups, in_per)
        choices = 1 if in_per == 1 else 2
        p.splits[node.index] = Split(node.index, p.ledger.ids(x).ravel(), choices, int(whole))
    if x is None:
        p.ledger.protect(in_lane, p.why(FIXED))
    if transposed:
        made = _transposed_out(p, x, taken, in_lane, out_lane, groups, out_per, whole, reason)
    elif out_lane is None:
        made = None
    else:
        if taken is not None and whole and out_per == 1 and in_per == 1 and out_lane.ids is None:
            out_lane.ids = taken.reshape(-1)
            return out_lane
        rows = p.ledger.ids(out_lane).reshape(groups, out_per)
        if taken is None:
            p.ledger.balance(list(rows), reason)
        elif whole:
            p.ledger.equate(taken[:, :1], taken)
            p.ledger.equate(taken[:, :1], rows)
        else:
            _tie_inner(p, taken, in_lane, reason)
            p.ledger.balance(list(rows), reason)
        if taken is not None and whole and in_lane is not None and in_per > 1:
            p.ledger.protect(in_lane, p.why("whole groups are removed instead"))
        made = out_lane
    return made


def _tie_inner(p: Propagation, taken: np.ndarray, in_lane: Lane | None, reason: str) -> None:
    """Every group loses the same inputs, for they share one dimension of the weight."""
    if in_lane is None:
        p.ledger.balance(list(taken), reason)
        return
    if in_lane.ids is None:
        in_lane.ids = np.ascontiguousarray(taken[0])
    p.ledger.equate(in_lane.ids[None, :], taken)


def _transposed_out(
    p: Propagation,
    x: Lane | None,
    taken: np.ndarray | None,
    in_lane: Lane | None,
    out_lane: Lane | None,
    groups: int,
    out_per: int,
    whole: bool,
    reason: str,
) -> Lane | None:
    if in_lane is not None and x is not None:
        p.ledger.unite([x, in_lane], {}, reason)
    if taken is not None and whole:
        p.ledger.equate(taken[:, :1], taken)
        if out_lane is not None:
            p.ledger.protect(out_lane, p.why("whole groups are removed instead"))
        return Lane(groups * out_per, np.repeat(taken[:, 0], out_per))
    if taken is not None:
        p.ledger.balance(list(taken), reason)
    if out_lane is None:
        return None
    return Lane(groups * out_per, np.tile(p.ledger.ids(out_lane), groups))
