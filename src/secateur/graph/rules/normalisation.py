"""Normalisations: per-channel parameters follow, statistics leave removed indices out."""

from __future__ import annotations

import numpy as np

from secateur.graph.lanes import Lane, Layout
from secateur.graph.propagate import Propagation, Split, rule
from secateur.graph.trace import Node, Ref

FIXED = "it scales a dimension that cannot change"


@rule("aten::native_batch_norm", "aten::_native_batch_norm_legit",
      "aten::_native_batch_norm_legit_no_training", "aten::_native_batch_norm_legit_functional",
      "aten::cudnn_batch_norm", "aten::miopen_batch_norm", "aten::_batch_norm_with_update",
      "aten::_batch_norm_no_update", "aten::batch_norm")  # fmt: skip
def batch_norm(p: Propagation, node: Node) -> list[Layout]:
    x = node.args[0]
    layout = p.aligned(x)
    vectors = [arg for arg in node.args[1:5] if isinstance(arg, Ref)]
    if p.shape(x)[1] > 1:
        lanes = [layout[1], *(p.aligned(ref)[0] for ref in vectors)]
        layout[1] = p.ledger.unite(lanes, {}, p.why(FIXED))
    if node.bound.get("training", False):
        others = [(x.index, dim) for dim in range(len(layout)) if dim != 1]
        p.mixes(others, exact_with_zeros=False)
    vector: Layout = [layout[1]]
    return [
        layout if at == 0 else (vector if p.shape(index) == p.shape(x)[1:2] else
                                [None] * len(p.shape(index)))
        for at, index in enumerate(node.outputs)
    ]  # fmt: skip


@rule("aten::native_layer_norm", "aten::layer_norm", "aten::rms_norm", "aten::_fused_rms_norm")
def layer_norm(p: Propagation, node: Node) -> list[Layout]:
    x, normalized = node.args[0], node.args[1]
    layout = p.aligned(x)
    first = len(layout) - len(normalized)
    scales = [arg for arg in node.args[2:4] if isinstance(arg, Ref)]
    for dim in range(first, len(layout)):
        if p.shape(x)[dim] == 1:
            continue
        lanes = [layout[dim], *(p.aligned(ref)[dim - first] for ref in scales)]
        layout[dim] = p.ledger.unite(lanes, {}, p.why(FIXED))
    dims = [(x.index, dim) for dim in range(first, len(layout))]
    p.mixes(dims, exact_with_zeros=False)
    outer: Layout = [*layout[:first], *([None] * len(normalized))]
    return [layout] + [outer[: len(p.shape(index))] for index in node.outputs[1:]]


@rule("aten::native_group_norm", "aten::group_norm")
def group_norm(p: Propagation, node: Node) -> list[Layout]:
    x = node.args[0]
    groups = node.bound["group"] if "group" in node.bound else node.args[1]
    layout = p.aligned(x)
    scales = [ref for ref in (node.bound["weight"], node.bound["bias"]) if isinstance(ref, Ref)]
    channels = p.shape(x)[1]
    if channels > 1:
        lanes = [layout[1], *(p.aligned(ref)[0] for ref in scales)]
        layout[1] = p.ledger.unite(lanes, {}, p.why(FIXED))
    lane, per_group = layout[1], None
    if lane is not None:
        ids = p.ledger.ids(lane)
        rows = ids.reshape(groups, -1)
        choice = p.split_choice.get(node.index, int(groups == channels))
        p.splits[node.index] = Split(node.index, ids, 2, choice)
        if choice:
            p.ledger.equate(rows[:, :1], rows)
            per_group = Lane(groups, np.ascontiguousarray(rows[:, 0])) if groups > 1 else None
        else:
            p.ledger.balance(list(rows), p.why("every group of the norm loses equally many"))
        if groups < channels:
            p.mixes([(x.index, 1)], exact_with_zeros=False)
    p.mixes([(x.index, dim) for dim in range(2, len(layout))], exact_with_zeros=False)
    statistics: Layout = [layout[0], per_group]
    return [layout, statistics, statistics][: len(node.outputs)]


@rule("aten::_weight_norm_interface", "aten::_weight_norm")
def weight_norm(p: Propagation, node: Node) -> list[Layout]:
    """``g * v / |v|``: zeroed entries do not change the norm of what is kept."""
    v, g, dim = node.args[0], node.args[1], node.bound["dim"]
    layout = p.aligned(v)
    if p.shape(v)[dim] > 1:
        layout[dim] = p.ledger.unite([layout[dim], p.aligned(g)[dim]], {}, p.why(FIXED))
    root = p.roots.get(v.index)
    if root is not None:
        p.roots[node.outputs[0]] = root
    for at in range(len(layout)):
        if at != dim:
            p.contracts((v.index, at))
    norms: Layout = [None] * len(layout)
    norms[dim] = layout[dim]
    return [layout, norms][: len(node.outputs)]
