"""Feature boosting and suppression: predicted saliency, of which the largest stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.dynamic.channel_gating import OnChannels
from secateur.dynamic.decision import Decision
from secateur.dynamic.gates import Gate, pooled
from secateur.dynamic.method import GATES, bounded
from secateur.dynamic.sites import ChannelSite, Site

__all__ = ["FBS", "SaliencyGate", "winners"]


def winners(saliency: Tensor, count: Tensor) -> Tensor:
    """1 for exactly so many of the largest of each row, ties by index; 0 for the others.

    Parameters
    ----------
    saliency : Tensor
        ``[examples, units]``.
    count : Tensor
        A scalar.

    Examples
    --------
    >>> winners(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), torch.tensor(2)).tolist()
    [[0.0, 1.0, 1.0, 0.0]]
    >>> winners(torch.zeros(1, 3), torch.tensor(2)).tolist()
    [[1.0, 1.0, 0.0]]
    """
    order = saliency.detach().argsort(dim=1, descending=True, stable=True)
    place = torch.arange(saliency.shape[1], device=saliency.device).expand_as(order)
    return torch.zeros_like(saliency).scatter(1, order, (place < count).to(saliency.dtype))


class SaliencyGate(Gate):
    """``relu(phi @ mean|x| + rho)``: one saliency for each unit, of which the k largest stay.

    Parameters
    ----------
    site : Site
    spread : float
        Standard deviation that ``phi`` starts with.
    """

    def __init__(self, site: Site, spread: float) -> None:
        super().__init__(site)
        self.predict = nn.Linear(site.features, site.units)
        nn.init.trunc_normal_(self.predict.weight, std=spread, a=-2 * spread, b=2 * spread)
        nn.init.ones_(self.predict.bias)

    @property
    def macs(self) -> int:
        return self.predict.weight.numel()

    @property
    def count(self) -> Tensor:
        """``ceil(density * units)``, at least one."""
        return (self.density * self.units - 1e-6).ceil().clamp(min=1)

    def decide(self, x: Tensor) -> Decision:
        saliency = self.predict(pooled(x.abs(), self.features_dim)).relu()
        opened = winners(saliency, self.count)
        return Decision(opened, opened, saliency)


@GATES.register("fbs")
class FBS(OnChannels):
    """Saliency of every channel predicted from the input; the k largest stay, boosted by it.

    Gao et al. 2019 (arXiv:1810.05331). Where one layer and a batch norm make the channels, the
    saliency takes the place of the norm's scale; elsewhere (neurons, heads) it multiplies what is
    read. The gate then starts from the scale that was there.

    Parameters
    ----------
    spread : float, default 0.05
        Standard deviation of the weights that predict saliency, at the start, relative to the
        scale that they add to over the root of ``c_in``: saliencies then vary by 5 %.
    l1 : float, default 1e-8
        Strength of the L1 term on saliencies.

    Examples
    --------
    >>> FBS(l1=0.0).spec
    'fbs:l1=0.0'
    """

    name = "fbs"
    exact: ClassVar[bool] = False

    def __init__(self, spread: float = 0.05, l1: float = 1e-8) -> None:
        self.spread = bounded(self.name, "spread", spread, 0.0, math.inf)
        self.l1 = bounded(self.name, "l1", l1, 0.0, math.inf)

    def gate(self, site: Site) -> Gate:
        return SaliencyGate(site, self.spread)

    def prepare(self, site: Site, gate: Gate, model: nn.Module) -> None:
        """Take the norm's scale over, and leave it only the signs."""
        assert isinstance(gate, SaliencyGate)
        rho = torch.ones(site.units)
        if isinstance(site, ChannelSite) and site.norm is not None:
            weight = model.get_submodule(site.norm).weight
            assert isinstance(weight, nn.Parameter)
            rho = weight.detach().abs().cpu()
            with torch.no_grad():
                weight.copy_(torch.where(weight < 0, -1.0, 1.0))
            weight.requires_grad_(False)
        with torch.no_grad():
            gate.predict.bias.copy_(rho)
            # So that a trained model starts near itself, however large its scales are.
            gate.predict.weight.mul_(rho[:, None] / math.sqrt(site.features))

    def restore(self, site: Site, gate: Gate, model: nn.Module) -> None:
        """Give the norm its scale back: the part of the saliency that no input changes."""
        assert isinstance(gate, SaliencyGate)
        if isinstance(site, ChannelSite) and site.norm is not None:
            weight = model.get_submodule(site.norm).weight
            assert isinstance(weight, nn.Parameter)
            with torch.no_grad():
                weight.mul_(gate.predict.bias.to(weight).relu())
            weight.requires_grad_(True)

    def loss(self, gates: Sequence[Gate], macs: Sequence[int]) -> Tensor:
        """L1 of the saliencies; the density is met by the choice itself."""
        self.rates(gates)
        scales = [gate.decision.scale for gate in gates if gate.decision is not None]
        sums = [each.sum(1).mean() for each in scales if each is not None]
        return self.l1 * torch.stack(sums).sum()
