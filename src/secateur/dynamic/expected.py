"""What inputs cost: multiply-accumulates of every example, from what gates opened for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.dynamic.finding import Traced
from secateur.dynamic.sites import ChannelSite, LayerSite, Site, SpatialSite
from secateur.graph.lanes import Ids

__all__ = ["Costs"]


@dataclasses.dataclass(eq=False)
class _Factor:
    """The share of an operation that a site leaves: ``fixed + (1 - fixed) * open``."""

    site: int
    units: Tensor | None
    fixed: float

    def share(self, opened: Tensor) -> Tensor:
        if self.units is not None:
            opened = opened[:, self.units]
        return self.fixed + (1 - self.fixed) * opened.mean(1)


class Costs:
    """Multiply-accumulates of one example, operation by operation, and what gates leave of them.

    Attributes
    ----------
    dense : int
        With everything open, without gates.
    gates : int
        Of all gates.
    """

    def __init__(self, traced: Traced, sites: Sequence[Site], gate_macs: Sequence[int]) -> None:
        self.gates = sum(gate_macs)
        self.dense = 0
        self._fixed = 0
        self._parts: list[tuple[int, list[_Factor]]] = []
        by_node: dict[int, list[_Factor]] = {}
        for at, site in enumerate(sites):
            for index, factor in self._factors(traced, at, site):
                by_node.setdefault(index, []).append(factor)
        for node in traced.flow.nodes:
            macs = traced.macs(node)
            self.dense += macs
            factors = by_node.get(node.index)
            if not factors:
                self._fixed += macs
            elif macs:
                self._parts.append((macs, factors))
        for at, site in enumerate(sites):
            site.macs = round(
                sum(
                    macs * (1 - factor.fixed)
                    for macs, factors in self._parts
                    for factor in factors
                    if factor.site == at
                )
            )

    def _factors(self, traced: Traced, at: int, site: Site) -> list[tuple[int, _Factor]]:
        if isinstance(site, LayerSite):
            return [(node, _Factor(at, None, 0.0)) for node in site.nodes]
        if isinstance(site, SpatialSite):
            return [(site.node, _Factor(at, None, site.base))]
        assert isinstance(site, ChannelSite)
        found = []
        for side in (site.makes, site.carries, site.reads):
            for path, units in side.items():
                factor = _Factor(at, *_inside(units))
                found += [(node.index, factor) for node in traced.by_module[path]]
        return found + [(node, _Factor(at, None, 0.0)) for node in site.between]

    def of(self, opened: Sequence[Tensor]) -> Tensor:
        """Multiply-accumulates of every example, gates included.

        Parameters
        ----------
        opened : sequence of Tensor
            For every site ``[examples, units]``, 0 or 1.

        Returns
        -------
        Tensor of float64
            ``[examples]``.
        """
        opened = [each.double().cpu() for each in opened]
        total = torch.full((len(opened[0]),), float(self._fixed + self.gates), dtype=torch.float64)
        for macs, factors in self._parts:
            part = torch.full_like(total, float(macs))
            for factor in factors:
                part = part * factor.share(opened[factor.site])
            total = total + part
        return total


def _inside(units: Ids) -> tuple[Tensor, float]:
    """The units of the indices that have one, and the share of those that have none."""
    inside = units >= 0
    return torch.from_numpy(units[inside]), float(1 - inside.mean())
