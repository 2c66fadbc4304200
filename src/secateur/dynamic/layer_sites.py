"""Residual branches that can be left out: what they are added to has their shape already."""

from __future__ import annotations

from secateur.dynamic.finding import Skipped, Traced
from secateur.dynamic.sites import LayerSite
from secateur.graph.trace import Node

__all__ = ["layer_sites"]


def layer_sites(traced: Traced) -> tuple[list[LayerSite], Skipped]:
    """Every innermost residual branch that begins and ends at modules, and why others do not.

    A shortcut that changes the shape is computed itself, so that no branch is added to its own
    input there: such blocks are never gated.

    Parameters
    ----------
    traced : Traced

    Returns
    -------
    (list of LayerSite, list of (name, reason))

    Examples
    --------
    >>> import torch
    >>> from secateur.inputs import as_inputs
    >>> from secateur.models.resnet import SmallResNet
    >>> net = SmallResNet(widths=(4, 8), blocks=2)
    >>> found, _ = layer_sites(Traced(net, as_inputs(torch.zeros(1, 1, 8, 8))))
    >>> [(site.name, site.exit) for site in found]
    [('stages.0.0.conv1', 'stages.0.0.bn2'), ('stages.0.1.conv1', 'stages.0.1.bn2'), \
('stages.1.1.conv1', 'stages.1.1.bn2')]
    """
    branches = []
    for node in traced.flow.nodes:
        if node.op == "aten::add" and len(traced.flow.reads[node.index]) == 2:
            for at in (0, 1):
                branch = _branch(traced, node, at)
                if branch is not None:
                    branches.append((node, at, branch))
                    break
    sites: list[LayerSite] = []
    skipped: Skipped = []
    adds = {node.index for node, _, _ in branches}
    for node, at, branch in branches:
        if any(inner.index in adds for inner in branch):
            continue
        found = _site(traced, node, at, branch)
        if isinstance(found, LayerSite):
            sites.append(found)
        else:
            skipped.append((node.module or "the model", found))
    return sites, skipped


def _branch(traced: Traced, node: Node, at: int) -> list[Node] | None:
    """The operations between one operand of a sum and the other, if there are only those."""
    flow = traced.flow
    start, end = flow.reads[node.index][at], flow.reads[node.index][1 - at]
    shape = traced.trace.values[node.outputs[0]].shape
    if start == end or flow.shape(start) != shape or flow.shape(end) != shape:
        return None
    inside: dict[int, Node] = {}
    waiting = [end]
    while waiting:
        definition = waiting.pop()
        if definition == start or definition in flow.fixed:
            continue
        maker = flow.maker.get(definition)
        if maker is None:
            return None
        if maker.index not in inside:
            inside[maker.index] = maker
            waiting.extend(flow.reads[maker.index])
    meets = any(start in flow.reads[index] for index in inside)
    return [inside[index] for index in sorted(inside)] if meets else None


def _site(traced: Traced, node: Node, at: int, branch: list[Node]) -> LayerSite | str:
    """The site of a branch, or why it cannot be gated."""
    flow = traced.flow
    start, end = flow.reads[node.index][at], flow.reads[node.index][1 - at]
    inside = {each.index for each in branch}
    for each in branch:
        for definition in flow.writes[each.index]:
            allowed = inside | ({node.index} if definition == end else set())
            outside = any(reader.index not in allowed for reader in flow.readers[definition])
            if outside or definition in flow.left:
                return "something else reads what the branch computes"
    if not traced.by_example(flow.value[start]):
        return "the first dimension of its input is not the examples"
    value = flow.value[start]
    entries = list(dict.fromkeys(each.module for each in branch if start in flow.reads[each.index]))
    for entry in entries:
        if set(traced.trace.module_inputs.get(entry, [])) != {value} or entry == node.module:
            return f"its input is read by the code of {entry or 'the model'}, not by a layer"
        if any(each.index not in inside for each in traced.under(entry)):
            return f"{entry} is used elsewhere too"
    last = flow.maker[end]
    if last.module in ("", node.module) or node.module.startswith(f"{last.module}."):
        return "the branch ends in code of its block, not in a layer"
    if any(each.index not in inside for each in traced.under(last.module)):
        return f"{last.module} is used elsewhere too"
    shape = flow.shape(start)
    features_dim = 1 if len(shape) == 4 else -1
    return LayerSite(
        name=entries[0],
        units=1,
        features=shape[features_dim],
        features_dim=features_dim,
        macs=sum(traced.macs(each) for each in branch),
        entries=tuple(entries),
        exit=last.module,
        nodes=tuple(inside),
    )
