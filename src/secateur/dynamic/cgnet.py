"""Channel gating in space: the full sum only where a partial one is large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.dynamic.decision import Decision, straight_through
from secateur.dynamic.finding import Skipped, Traced
from secateur.dynamic.gates import Gate
from secateur.dynamic.method import GATES, DynamicMethod, Kind, bounded
from secateur.dynamic.sites import Site, SpatialSite
from secateur.dynamic.spatial_sites import spatial_sites

__all__ = ["CGNet", "PartialSumGate"]

# Positions that a quantile is taken from; enough for a per cent.
SAMPLED = 10_000


class PartialSumGate(Gate):
    """Open where the normalised partial sum is at least a learned threshold.

    It looks at the partial sum ``[examples, c_out, h, w]`` itself, not at the layer's input.

    Parameters
    ----------
    site : SpatialSite
    groups : int
    outputs : int
        Channels of the convolution.
    opening : float
        Minus the threshold that the gate starts with.
    sharpness : float
        Of the sigmoid that gradients pass through.
    """

    def __init__(
        self, site: SpatialSite, groups: int, outputs: int, opening: float, sharpness: float
    ) -> None:
        super().__init__(site)
        self.groups, self.sharpness = groups, sharpness
        self.normal = nn.BatchNorm2d(groups, affine=False)
        self.threshold = nn.Parameter(torch.full((groups,), -opening))
        self.base_norm = None if site.norm is None else nn.BatchNorm2d(outputs)
        self.wanted: Tensor | None = None
        self.parts: tuple[Tensor, Tensor] | None = None

    @property
    def macs(self) -> int:
        return 0

    def decide(self, x: Tensor) -> Decision:
        grouped = x.unflatten(1, (self.groups, -1)).mean(2)
        normal = self.normal(grouped)
        if self.training and torch.is_grad_enabled():
            self.wanted = self._quantile(normal.detach())
        opened = straight_through(self.sharpness * (normal - self.threshold[:, None, None]))
        flat = opened.flatten(1)
        return Decision(flat, flat)

    def _quantile(self, normal: Tensor) -> Tensor:
        """The threshold that would leave the density open in this batch, for every group."""
        values = normal.transpose(0, 1).flatten(1)
        values = values[:, :: max(1, values.shape[1] // SAMPLED)]
        return torch.quantile(values, (1 - self.density).clamp(0, 1).to(values), dim=1)

    def spread(self, decision: Decision, shape: Sequence[int]) -> Tensor:
        """The decision for every channel and position: ``[examples, c_out or 1, h, w]``."""
        opened = decision.open.unflatten(1, (self.groups, *shape[2:]))
        if self.groups == 1:
            return opened
        return opened.repeat_interleave(shape[1] // self.groups, 1)

    def forget(self) -> None:
        super().forget()
        self.wanted, self.parts = None, None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "wanted": None, "parts": None}


@GATES.register("cgnet")
class CGNet(DynamicMethod):
    """A part of the input channels everywhere, the others where their sum is large.

    Channel gating neural networks, Hua et al. 2019 (arXiv:1805.12549): fine-grained in space. A
    convolution first sums up one in ``eta`` of its input channels; where the normalised sum is at
    least a learned threshold, the rest is added. Positions with and without it have a batch norm
    each. The gate loss ``(T - threshold)^2`` pulls the threshold; T is the quantile of the batch
    that leaves the density open.

    Parameters
    ----------
    eta : int, default 4
        One in so many input channels is summed up first.
    groups : int, default 1
        Groups of output channels that are decided about apart; 1 decides for a position as a
        whole, which is what can be left out fastest.
    sharpness : float, default 2.0
        Of the sigmoid whose gradient stands in for that of the choice.
    opening : float, default 30.0
        Minus the first threshold, in standard deviations.

    Examples
    --------
    >>> CGNet(eta=2).spec
    'cgnet:eta=2'
    """

    name = "cgnet"
    kind: ClassVar[Kind] = "spatial"

    def __init__(
        self, eta: int = 4, groups: int = 1, sharpness: float = 2.0, opening: float = 30.0
    ) -> None:
        self.eta = int(bounded(self.name, "eta", eta, 2, 1e6))
        self.groups = int(bounded(self.name, "groups", groups, 1, 1e6))
        self.sharpness = bounded(self.name, "sharpness", sharpness, 0.0, 1e6, above=True)
        self.opening = bounded(self.name, "opening", opening, 0.0, 1e6)

    def sites(self, traced: Traced, *, streams: bool) -> tuple[Sequence[Site], Skipped]:
        return spatial_sites(traced, self.eta, self.groups)

    def gate(self, site: Site) -> Gate:
        assert isinstance(site, SpatialSite)
        return PartialSumGate(site, self.groups, site.outputs, self.opening, self.sharpness)

    def prepare(self, site: Site, gate: Gate, model: nn.Module) -> None:
        """Start the norm of partial sums from the one that is there."""
        assert isinstance(gate, PartialSumGate) and isinstance(site, SpatialSite)
        if site.norm is not None and gate.base_norm is not None:
            norm = model.get_submodule(site.norm)
            assert isinstance(norm, nn.BatchNorm2d)
            gate.base_norm.load_state_dict(norm.state_dict(), strict=False)
            gate.base_norm.eps, gate.base_norm.momentum = norm.eps, norm.momentum

    def loss(self, gates: Sequence[Gate], macs: Sequence[int]) -> Tensor:
        self.rates(gates)
        terms = []
        for gate in gates:
            assert isinstance(gate, PartialSumGate)
            wanted = gate.threshold.detach() if gate.wanted is None else gate.wanted
            terms.append((wanted - gate.threshold).square().mean())
        return torch.stack(terms).mean()
