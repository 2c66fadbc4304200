"""Pooling, interpolation, unfolding and pixel shuffles."""

from __future__ import annotations

import numpy as np

from secateur.graph.lanes import Lane, Layout
from secateur.graph.propagate import Propagation, Split, rule
from secateur.graph.trace import Node

_POOLS = """
avg_pool{n}d _adaptive_avg_pool{n}d adaptive_avg_pool{n}d max_pool{n}d max_pool{n}d_with_indices
adaptive_max_pool{n}d fractional_max_pool{n}d lp_pool{n}d mkldnn_max_pool{n}d
"""
_RESIZES = {
    1: "upsample_linear1d upsample_nearest1d _upsample_nearest_exact1d",
    2: """upsample_bilinear2d upsample_bicubic2d upsample_nearest2d _upsample_nearest_exact2d
       _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa""",
    3: "upsample_trilinear3d upsample_nearest3d _upsample_nearest_exact3d",
}


def _spatial(count: int) -> object:
    def slide(p: Propagation, node: Node) -> list[Layout]:
        layout = p.aligned(node.inputs[0])
        first = len(layout) - count
        p.pin(layout, range(first, len(layout)), "a window slides along it")
        result: Layout = [*layout[:first], *([None] * count)]
        return [result for _ in node.outputs]

    return slide


for _count in (1, 2, 3):
    _names = [*_POOLS.format(n=_count).split(), *_RESIZES[_count].split()]
    rule(*(f"aten::{name}" for name in dict.fromkeys(_names)))(_spatial(_count))  # type: ignore[arg-type]


@rule("aten::grid_sampler_2d", "aten::grid_sampler_3d", "aten::grid_sampler")
def grid_sample(p: Propagation, node: Node) -> list[Layout]:
    x, grid = p.aligned(node.args[0]), p.layout(node.args[1])
    p.pin(x, range(2, len(x)), "it is sampled by coordinates")
    p.pin(grid, range(len(grid)), "it holds coordinates")
    return [[*x[:2], *([None] * (len(x) - 2))]]


def _channel_blocks(p: Propagation, node: Node, block: int) -> Layout:
    """The input's layout with channels grouped in blocks that go together: ``[C / block]``."""
    layout = p.aligned(node.inputs[0])
    dim = len(layout) - 3
    p.pin(layout, range(dim + 1, len(layout)), "it is rearranged with the channels")
    lane = layout[dim]
    if lane is not None:
        ids = p.ledger.ids(lane).reshape(-1, block)
        p.ledger.equate(ids[:, :1], ids)
        layout[dim] = Lane(len(ids), np.ascontiguousarray(ids[:, 0])) if len(ids) > 1 else None
        if len(ids) == 1:
            p.ledger.protect(lane, p.why("all of its channels make up one"))
    return [*layout[: dim + 1], None, None]


@rule("aten::pixel_shuffle")
def pixel_shuffle(p: Propagation, node: Node) -> list[Layout]:
    return [_channel_blocks(p, node, node.args[1] ** 2)]


@rule("aten::pixel_unshuffle")
def pixel_unshuffle(p: Propagation, node: Node) -> list[Layout]:
    return [_expand_channels(p, node, len(p.shape(node.inputs[0])) - 3, node.args[1] ** 2)]


def _expand_channels(p: Propagation, node: Node, dim: int, copies: int) -> Layout:
    layout = p.aligned(node.inputs[0])
    p.pin(layout, range(dim + 1, len(layout)), "it is rearranged with the channels")
    lane = layout[dim]
    result: Layout = [*layout[:dim], None, *([None] * (len(p.shape(node.outputs[0])) - dim - 1))]
    if lane is not None:
        result[dim] = Lane(lane.size * copies, np.repeat(p.ledger.ids(lane), copies))
    return result


@rule("aten::im2col")
def im2col(p: Propagation, node: Node) -> list[Layout]:
    kernel = node.args[1]
    dim = len(p.shape(node.inputs[0])) - 3
    return [_expand_channels(p, node, dim, kernel[0] * kernel[1])]


@rule("aten::col2im")
def col2im(p: Propagation, node: Node) -> list[Layout]:
    layout = p.aligned(node.inputs[0])
    dim = len(layout) - 2
    p.pin(layout, [dim + 1], "it is folded into an image")
    block = node.args[2][0] * node.args[2][1]
    lane = layout[dim]
    result: Layout = [*layout[:dim], None, None, None]
    if lane is not None:
        ids = p.ledger.ids(lane).reshape(-1, block)
        p.ledger.equate(ids[:, :1], ids)
        result[dim] = Lane(len(ids), np.ascontiguousarray(ids[:, 0])) if len(ids) > 1 else None
    return [result]


@rule("aten::unfold")
def unfold(p: Propagation, node: Node) -> list[Layout]:
    layout = p.aligned(node.inputs[0])
    dim = node.args[1] % len(layout)
    p.pin(layout, [dim], "a window slides along it")
    return [[*(None if at == dim else lane for at, lane in enumerate(layout)), None]]


@rule("aten::channel_shuffle", "aten::native_channel_shuffle")
def channel_shuffle(p: Propagation, node: Node) -> list[Layout]:
    """``[groups, width]`` becomes ``[width, groups]``: every group loses the same places.

    Where that leaves nothing to remove, whole groups cannot go either: their count is fixed.
    """
    groups = node.args[1]
    layout = p.aligned(node.inputs[0])
    lane = layout[1]
    if lane is not None:
        ids = p.ledger.ids(lane).reshape(groups, -1)
        p.ledger.equate(ids[:1], ids)
        p.splits[node.index] = Split(node.index, ids.ravel(), 1)
        layout[1] = Lane(lane.size, np.ascontiguousarray(ids.T).reshape(-1))
    return [layout]
