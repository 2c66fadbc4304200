"""Coupled channels, neurons and heads that can be closed together, layer by layer."""

from __future__ import annotations

import numpy as np
from torch import nn

from secateur.dynamic.finding import Skipped, Traced
from secateur.dynamic.sites import ChannelSite
from secateur.graph.coupling import Group
from secateur.graph.graph import Graph
from secateur.graph.lanes import Ids
from secateur.graph.trace import Node

__all__ = ["CARRYING", "MIXING", "channel_sites"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MIXING = (*CONVOLUTIONS, nn.Linear)
CARRYING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Names under which attention keeps the number of its heads.
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")


class _Unfit(Exception):
    """A group cannot be gated; the message says why."""


def channel_sites(traced: Traced, *, streams: bool = False) -> tuple[list[ChannelSite], Skipped]:
    """Every coupled group that plain layers make, carry and read, and why others do not count.

    Parameters
    ----------
    traced : Traced
    streams : bool, default False
        Whether to gate channels too that several layers add to, one after the other: the gate
        of the first of them then decides for all.

    Returns
    -------
    (list of ChannelSite, list of (name, reason))

    Examples
    --------
    >>> import torch
    >>> from secateur.inputs import as_inputs
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> (site,), _ = channel_sites(Traced(net, as_inputs(torch.zeros(1, 3, 8, 8))))
    >>> site.name, site.units, site.norm, list(site.reads)
    ('0', 8, '1', ['3'])
    """
    sites: list[ChannelSite] = []
    skipped: Skipped = []
    seen: set[str] = set()
    graphs = [traced.graph] if traced.whole is traced.graph else [traced.graph, traced.whole]
    for graph in graphs:
        for group in graph.groups:
            if group.name in seen:
                continue
            try:
                sites.append(_site(traced, graph, group, streams))
                seen.add(group.name)
            except _Unfit as unfit:
                if graph is graphs[-1]:
                    skipped.append((group.name, str(unfit)))
    order = {path: at for at, path in enumerate(traced.by_module)}
    sites.sort(key=lambda site: order[site.name])
    taken: dict[str, ChannelSite] = {}
    for site in list(sites):
        # One layer, one gate at its input.
        if site.name in taken:
            sites.remove(site)
            skipped.append((site.name, f"the gate of {site.name} decides about other units"))
        taken.setdefault(site.name, site)
    return sites, skipped


def _site(traced: Traced, graph: Graph, group: Group, streams: bool) -> ChannelSite:
    if len(group.cells) != 1 or group.cells[0].take != 1:
        raise _Unfit("each of its units is spread over several places, which close differently")
    unit_of = np.full(graph.n_classes, -1, dtype=np.int64)
    classes = np.sort(group.cells[0].classes)
    unit_of[classes] = np.arange(len(classes))
    makes: dict[str, Ids] = {}
    carries: dict[str, Ids] = {}
    reads: dict[str, Ids] = {}
    for member in group.members:
        path, _, leaf = member.name.rpartition(".")
        module = traced.modules[path]
        units = unit_of[member.classes]
        if type(module) in CARRYING:
            carries[path] = units
        elif type(module) in MIXING and leaf in ("weight", "bias"):
            depthwise = getattr(module, "groups", 1)
            if depthwise > 1:
                if depthwise != module.in_channels or depthwise != module.out_channels:
                    raise _Unfit(f"{path} is a grouped convolution")
                carries[path] = units
            elif leaf == "weight":
                (makes if member.dim == 0 else reads)[path] = units
        else:
            raise _Unfit(
                f"{member.name} is held by {type(module).__name__}, which has no gated form"
            )
    if not makes or not reads:
        raise _Unfit("no plain layer makes it, or none reads it")
    for path in {*makes, *carries, *reads}:
        _plain(traced, path)
    layers = {path: traced.by_module[path][0] for path in {*makes, *carries, *reads}}
    first = min(makes, key=lambda path: layers[path].index)
    _alone(traced, graph, classes, {node.index for node in layers.values()})
    if not streams and _stream(traced, graph, classes):
        raise _Unfit("several layers add to it in turn; streams=True gates it all the same")
    if any(layers[path].index < layers[first].index for path in (*reads, *carries)):
        raise _Unfit("it is read before it is made")
    module = traced.modules[first]
    value = traced.trace.module_inputs[first][0]
    if not traced.by_example(value):
        raise _Unfit("the first dimension of its layer's input is not the examples")
    conv = isinstance(module, CONVOLUTIONS)
    for path in {*makes, *carries, *reads}:
        if not traced.by_example(traced.trace.module_inputs[path][0]):
            raise _Unfit(f"the first dimension of what {path} reads is not the examples")
    layers_of = {*makes, *carries, *reads}
    between = tuple(
        node.index
        for node in traced.flow.nodes
        if node.module not in layers_of
        and traced.macs(node)
        and any(_carries(graph, at, classes) for at in (*node.inputs, *node.outputs))
    )
    return ChannelSite(
        name=first,
        units=len(classes),
        features=module.in_channels if conv else module.in_features,
        features_dim=1 if conv else -1,
        makes=makes,
        carries=carries,
        reads=reads,
        between=between,
        norm=_norm_behind(traced, makes, carries, layers),
        heads=_heads(traced, first, len(classes), makes[first]),
    )


def _plain(traced: Traced, path: str) -> None:
    """Refuse a layer that is not called exactly once, by itself, with its own weight."""
    module = traced.modules[path]
    nodes = traced.by_module.get(path, [])
    own = [node for node in nodes if node.op != "aten::view"]
    if len(own) != 1:
        raise _Unfit(f"{path} runs {len(own)} operations, where a gated layer runs one")
    if module._forward_hooks or module._forward_pre_hooks or "parametrizations" in module._modules:
        raise _Unfit(f"{path} has hooks or parametrisations of its own")
    prefix = f"{path}."
    for at, value in enumerate(traced.trace.values):
        if value.kind == "state" and value.name.startswith(prefix):
            users = [node.module for node in traced.trace.nodes if at in node.inputs]
            if any(user != path for user in users):
                raise _Unfit(f"{value.name} is used outside of its layer too")


def _alone(traced: Traced, graph: Graph, classes: Ids, allowed: set[int]) -> None:
    """Refuse units that something mixes which is no layer of theirs and minds zeros."""
    nodes = {node.index: node for node in traced.trace.nodes}
    for index, reduction in graph.propagation.reductions.items():
        node = nodes.get(index)
        if node is None or index in allowed:
            continue
        if any(np.isin(graph.classes_of(lane), classes).any() for _, _, lane in reduction.lanes):
            raise _Unfit(
                f"{node.op.removeprefix('aten::')} in {node.module or 'the model'} mixes it"
            )


def _stream(traced: Traced, graph: Graph, classes: Ids) -> bool:
    """Whether two tensors that are both of these units are added up."""
    for node in traced.flow.nodes:
        if node.op == "aten::add":
            carrying = [at for at in node.inputs if _carries(graph, at, classes)]
            made = [at for at in carrying if traced.trace.values[at].kind == "result"]
            if len(made) > 1:
                return True
    return False


def _carries(graph: Graph, value: int, classes: Ids) -> bool:
    return any(
        lane is not None
        and lane.ids is not None
        and bool(np.isin(graph.classes_of(lane), classes).any())
        for lane in graph.propagation.layout(value)
    )


def _norm_behind(
    traced: Traced, makes: dict[str, Ids], carries: dict[str, Ids], layers: dict[str, Node]
) -> str | None:
    """The batch norm that alone reads what the only maker makes."""
    if len(makes) != 1:
        return None
    (maker,) = makes
    written = traced.flow.writes[layers[maker].index][0]
    readers = traced.flow.readers[written]
    if len(readers) == 1 and readers[0].module in carries:
        module = traced.modules[readers[0].module]
        if type(module) in CARRYING and module.affine:
            return readers[0].module
    return None


def _heads(traced: Traced, first: str, units: int, made: Ids) -> tuple[tuple[str, str], ...]:
    """Attributes around a layer that count its units, where a unit is several outputs."""
    if len(made) == units:
        return ()
    around = first.rpartition(".")[0]
    module = traced.modules[around]
    return tuple(
        (around, name) for name in HEADS if type(getattr(module, name, None)) is int
        and getattr(module, name) == units
    )  # fmt: skip
