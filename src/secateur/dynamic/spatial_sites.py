"""Convolutions whose full sum can be left out at some positions."""

from __future__ import annotations

from math import prod

from torch import nn

from secateur.dynamic.finding import Skipped, Traced
from secateur.dynamic.sites import SpatialSite

__all__ = ["spatial_sites"]


def spatial_sites(traced: Traced, eta: int, groups: int) -> tuple[list[SpatialSite], Skipped]:
    """Every plain convolution with at least ``eta`` input channels, and why others do not count.

    Parameters
    ----------
    traced : Traced
    eta : int
        One in so many input channels is summed up first.
    groups : int
        Groups of output channels that are decided about apart.

    Returns
    -------
    (list of SpatialSite, list of (name, reason))

    Examples
    --------
    >>> import torch
    >>> from secateur.inputs import as_inputs
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    >>> found, skipped = spatial_sites(Traced(net, as_inputs(torch.zeros(1, 3, 8, 8))), 4, 1)
    >>> [(site.name, site.units, site.base) for site in found], skipped
    ([('2', 16, 0.25)], [('0', 'it has 3 input channels, fewer than eta = 4')])
    """
    sites: list[SpatialSite] = []
    skipped: Skipped = []
    for path, module in traced.modules.items():
        if not isinstance(module, nn.Conv2d) or path not in traced.by_module:
            continue
        reason = _misfit(traced, path, module, eta, groups)
        if reason is not None:
            skipped.append((path, reason))
            continue
        (node,) = traced.by_module[path]
        shape = traced.trace.values[node.outputs[0]].shape
        readers = traced.flow.readers[traced.flow.writes[node.index][0]]
        norm = readers[0].module if len(readers) == 1 else ""
        behind = traced.modules[norm] if norm else None
        usable = type(behind) is nn.BatchNorm2d and len(traced.by_module[norm]) == 1
        sites.append(
            SpatialSite(
                name=path,
                units=groups * prod(shape[2:]),
                features=module.in_channels,
                features_dim=1,
                norm=norm if usable else None,
                node=node.index,
                outputs=module.out_channels,
                base=(module.in_channels // eta) / module.in_channels,
            )
        )
    return sites, skipped


def _misfit(traced: Traced, path: str, module: nn.Conv2d, eta: int, groups: int) -> str | None:
    nodes = traced.by_module[path]
    if type(module) is not nn.Conv2d:
        return f"{type(module).__name__} has no gated form"
    if len(nodes) != 1:
        return f"it runs {len(nodes)} times"
    if module.groups != 1:
        return "it is a grouped convolution"
    if module._forward_hooks or module._forward_pre_hooks or module._modules:
        return "it has hooks or parametrisations of its own"
    if module.in_channels < eta:
        return f"it has {module.in_channels} input channels, fewer than eta = {eta}"
    if module.out_channels % groups:
        return f"its {module.out_channels} output channels do not divide into {groups} groups"
    if not traced.by_example(nodes[0].inputs[0]):
        return "the first dimension of what it reads is not the examples"
    return None
