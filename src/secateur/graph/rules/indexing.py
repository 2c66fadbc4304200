"""Look-ups: embeddings, index, gather and scatter."""

from __future__ import annotations

from secateur.graph.lanes import Layout
from secateur.graph.propagate import Propagation, rule
from secateur.graph.rules.reshaping import remove
from secateur.graph.trace import Node, Ref


@rule("aten::embedding")
def embedding(p: Propagation, node: Node) -> list[Layout]:
    weight, indices = node.args[0], node.args[1]
    layout = p.layout(weight)
    p.pin(layout, [0], "its rows are looked up by value")
    root = p.roots.get(weight.index)
    if root is not None:
        p.producers.setdefault(p.value(root).name, set()).add(1)
    index = p.layout(indices)
    p.pin(index, range(len(index)), "it holds indices")
    return [[*([None] * len(index)), *layout[1:]]]


@rule("aten::_embedding_bag", "aten::_embedding_bag_forward_only")
def embedding_bag(p: Propagation, node: Node) -> list[Layout]:
    layout = p.layout(node.args[0])
    p.pin(layout, [0], "its rows are looked up by value")
    p.producers.setdefault(p.value(node.args[0]).name, set()).add(1)
    bag: Layout = [None, layout[1]]
    return [bag if len(p.shape(index)) == 2 else [None] for index in node.outputs]


@rule("aten::index_select")
def index_select(p: Propagation, node: Node) -> list[Layout]:
    source, dim, index = node.args
    layout = p.aligned(source, None)
    layout[dim] = p.select_by_index(layout[dim], index)
    return [layout]


@rule("aten::index", "aten::_unsafe_index")
def index(p: Propagation, node: Node) -> list[Layout]:
    """``x[:, perm]`` renumbers a constant permutation; other indexed dimensions are protected."""
    source, indices = node.args[0], list(node.args[1])
    layout = p.aligned(source)
    used = [dim for dim, ref in enumerate(indices) if isinstance(ref, Ref)]
    first = indices[used[0]]
    if len(used) == 1 and len(p.shape(first)) == 1 and p.value(first).dtype.is_signed:
        layout[used[0]] = p.select_by_index(layout[used[0]], first)
        return [layout]
    p.pin(layout, used, "it is indexed by values")
    for dim in used:
        lanes = p.layout(indices[dim])
        p.pin(lanes, range(len(lanes)), "it holds indices")
    rank = len(p.shape(node.outputs[0]))
    rest = layout
    for dim in sorted(used, reverse=True):
        rest = remove(rest, dim)
    added = rank - len(rest)
    adjacent = used == list(range(used[0], used[-1] + 1))
    at = used[0] if adjacent else 0
    return [[*rest[:at], *([None] * added), *rest[at:]]]


@rule("aten::gather")
def gather(p: Propagation, node: Node) -> list[Layout]:
    source, dim, picks = node.args[:3]
    layout = p.aligned(source)
    rank = len(layout)
    dim %= rank
    p.pin(layout, [dim], "it is gathered by values")
    result: Layout = []
    for at in range(rank):
        follows = at != dim and p.shape(source)[at] == p.shape(picks)[at]
        if follows and p.shape(source)[at] > 1:
            lanes = [layout[at], p.layout(picks)[at]]
            result.append(p.ledger.unite(lanes, {}, p.why("it is gathered by values")))
        else:
            if at != dim:
                p.pin(layout, [at], "only part of it is gathered")
            result.append(None)
    return [result]


@rule("aten::scatter", "aten::scatter_add", "aten::scatter_reduce", "aten::index_put",
      "aten::_index_put_impl", "aten::index_add", "aten::index_copy", "aten::index_fill",
      "aten::masked_scatter", "aten::masked_select", "aten::take", "aten::take_along_dim",
      "aten::_unsafe_index_put", "aten::select_scatter", "aten::slice_scatter")  # fmt: skip
def scatter(p: Propagation, node: Node) -> list[Layout]:
    """Along the written dimension places are values; along the others both sides are tied."""
    if node.op not in ("aten::scatter", "aten::scatter_add", "aten::index_add",
                       "aten::index_copy"):  # fmt: skip
        return p.give_up(node, "it is written to by place")
    target, dim = node.args[:2]
    layout = p.aligned(target)
    dim %= len(layout)
    p.pin(layout, [dim], "it is written to by place")
    layout[dim] = None
    rank = len(layout)
    others = [ref for ref in node.args[2:4] if isinstance(ref, Ref) and len(p.shape(ref)) == rank]
    for at in range(len(layout)):
        if at == dim or p.shape(target)[at] == 1:
            continue
        lanes = [layout[at]]
        for ref in others:
            if p.shape(ref)[at] == p.shape(target)[at]:
                lanes.append(p.aligned(ref)[at])
            else:
                p.pin(p.layout(ref), [at], "only part of it is written")
                lanes.append(None)
        layout[at] = p.ledger.unite(lanes, {}, p.why("it is written to by place"))
    for ref in others:
        p.pin(p.layout(ref), [dim], "it is written to by place")
    return [layout]
