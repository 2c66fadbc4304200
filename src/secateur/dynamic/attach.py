"""Gates put on a model and taken off again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from secateur.dynamic.cgnet import PartialSumGate
from secateur.dynamic.gates import Gate
from secateur.dynamic.lanes import Lanes
from secateur.dynamic.layer_gating import Branch
from secateur.dynamic.layers import attach, detach
from secateur.dynamic.links import Links
from secateur.dynamic.partial import attach_partial, detach_partial
from secateur.dynamic.sites import ChannelSite, LayerSite, Site, SpatialSite
from secateur.graph.lanes import Ids

__all__ = ["Attachment"]


class Attachment:
    """What holds the gates on a model.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place; names in its state dict stay, and those of the gates join them.
    sites : sequence of Site
    gates : sequence of Gate
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], gates: Sequence[Gate]) -> None:
        self.model = model
        self.branches: list[Branch] = []
        self.partial: list[nn.Module] = []
        channels: list[tuple[ChannelSite, Gate]] = []
        for site, gate in zip(sites, gates, strict=True):
            if isinstance(site, ChannelSite):
                channels.append((site, gate))
            elif isinstance(site, LayerSite):
                self.branches.append(Branch(model, site, gate))
            elif isinstance(site, SpatialSite) and isinstance(gate, PartialSumGate):
                self._partial(site, gate)
        self.links = self._linked(channels)
        for path, links in self.links.items():
            attach(model.get_submodule(path), links)

    def _partial(self, site: SpatialSite, gate: PartialSumGate) -> None:
        conv = self.model.get_submodule(site.name)
        norm = None if site.norm is None else self.model.get_submodule(site.norm)
        attach_partial(self.model, conv, norm, gate, round(site.base * site.features))
        self.partial += [conv] if norm is None else [conv, norm]

    def _linked(self, channels: Sequence[tuple[ChannelSite, Gate]]) -> dict[str, Links]:
        sides: dict[str, dict[str, list[tuple[Gate, Ids]]]]
        sides = {"makes": {}, "carries": {}, "reads": {}}
        links: dict[str, Links] = {}
        for site, gate in channels:
            gate.routed, gate.scales_reads = True, site.norm is None
            for side, found in sides.items():
                for path, units in getattr(site, side).items():
                    found.setdefault(path, []).append((gate, units))
        for side, found in sides.items():
            for path, parts in found.items():
                lanes = Lanes(parts)
                setattr(links.setdefault(path, Links()), side, lanes)
        for site, gate in channels:
            links[site.name].decides = gate
            if site.norm is not None:
                links[site.norm].scales = gate
            counts = tuple(
                (self.model.get_submodule(path), name, site.units, gate)
                for path, name in site.heads
            )
            for path in (*site.makes, *site.reads):
                links[path].counts += counts
        return links

    def remove(self) -> None:
        """Make every layer the plain one that it was."""
        for branch in self.branches:
            branch.remove()
        for module in self.partial:
            detach_partial(module)
        for path in self.links:
            detach(self.model.get_submodule(path))

    def clear(self) -> None:
        """Forget weights that were chosen for earlier inputs, and put sizes back."""
        for path, links in self.links.items():
            module = self.model.get_submodule(path)
            module.__dict__.pop("_kept", None)
            for owner, attribute, units, _ in links.counts:
                setattr(owner, attribute, units)

    def layers(self, site: Site) -> list[nn.Module]:
        """The layers that do less work where a site is closed."""
        if isinstance(site, ChannelSite):
            return [self.model.get_submodule(path) for path in site.touched]
        return [self.model.get_submodule(site.name)]
