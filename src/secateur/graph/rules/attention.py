"""Fused scaled dot-product attention."""

from __future__ import annotations

import numpy as np

from secateur.graph.lanes import Lane, Layout
from secateur.graph.propagate import Propagation, rule
from secateur.graph.rules.contraction import FIXED
from secateur.graph.trace import Node, Ref


@rule("aten::_scaled_dot_product_flash_attention_for_cpu",
      "aten::_scaled_dot_product_flash_attention",
      "aten::_scaled_dot_product_efficient_attention",
      "aten::_scaled_dot_product_cudnn_attention",
      "aten::_scaled_dot_product_fused_attention_overrideable",
      "aten::_scaled_dot_product_attention_math",
      "aten::scaled_dot_product_attention")  # fmt: skip
def attention(p: Propagation, node: Node) -> list[Layout]:
    """``softmax(q k^T * scale) v`` over ``[batch, heads, length, width]``.

    Query and key widths are contracted. The value's width goes on; it shrinks as much as the
    query's, because the fused kernels take one width for all three.
    """
    q, k, v = node.args[:3]
    heads = p.shape(q)[1]
    mask = node.bound.get("attn_mask", node.bound.get("attn_bias"))
    lanes = [_per_head(p, ref, heads) for ref in (q, k, v)]
    batch = {0: p.shape(q)[0], 1: heads}
    for ref in (q, k, v):
        p.pin(p.layout(ref), [2], "attention runs along it")
    across = [_heads(p, ref, heads) for ref in (q, k, v) if heads > 1 and p.shape(ref)[1] > 1]
    if isinstance(mask, Ref):
        across += _of_mask(p, mask, heads)
    head_lane = p.ledger.unite(across, {}, p.why(FIXED)) if heads > 1 else None
    p.mixes([(q.index, 3), (k.index, 3)], exact_with_zeros=True)
    width = p.ledger.unite(lanes[:2], batch, p.why(FIXED))
    value = lanes[2]
    if p.shape(q)[3] == p.shape(v)[3]:
        if width is None or value is None:
            for lane in (width, value):
                p.ledger.protect(lane, p.why("query, key and value share one width"))
        else:
            _same_count(p, width, value)
    if width is not None and node.bound.get("scale") is None:
        p.scales[node.index] = width
    out: Layout = [p.layout(q)[0], head_lane, None, value]
    # The second result, where there is one, is a sum per head and query.
    layouts: list[Layout] = [out]
    for position, index in enumerate(node.outputs[1:]):
        layout: Layout = [None] * len(p.shape(index))
        if position == 0 and len(layout) >= 2:
            layout[1] = head_lane
        layouts.append(layout)
    return layouts


def _heads(p: Propagation, ref: Ref, heads: int) -> Lane | None:
    """The lane of the heads; a key that several queries share goes with all of them."""
    lane = p.layout(ref)[1]
    if lane is None or lane.size == heads:
        return lane
    ids = p.ledger.ids(p.ledger.aligned(lane))
    return Lane(heads, np.repeat(ids, heads // lane.size))


def _of_mask(p: Propagation, mask: Ref, heads: int) -> list[Lane | None]:
    """The lane of a mask's heads, where it has one a head; its other dimensions stay."""
    shape, layout = p.shape(mask), p.layout(mask)
    at = len(shape) - 3
    p.pin(layout, [dim for dim in range(len(shape)) if dim != at], "attention runs along it")
    if at < 0 or shape[at] != heads:
        return []
    lane = layout[at]
    return [p.ledger.aligned(lane) if lane is not None else None]


def _per_head(p: Propagation, ref: Ref, heads: int) -> Lane | None:
    """The width's lane, its rows repeated where several queries share a key and value."""
    lane = p.layout(ref)[3]
    own = p.shape(ref)[1]
    if lane is None or lane.ids is None:
        return lane
    if any(row == 2 for row in lane.rows):
        return p.ledger.aligned(lane)
    if own != heads and 1 in lane.rows:
        ids = np.repeat(lane.ids, heads // own, axis=lane.rows.index(1))
        return Lane(lane.size, ids, lane.rows)
    return lane


def _same_count(p: Propagation, a: Lane, b: Lane) -> None:
    """Both widths shrink by the same count, whatever indices each loses."""
    if a is b:
        return
    rows = [lane_ids.reshape(-1, lane_ids.shape[-1]) for lane_ids in (p.ledger.ids(a),
                                                                    p.ledger.ids(b))]  # fmt: skip
    p.ledger.balance([*rows[0], *rows[1]], p.why("query, key and value share one width"))
