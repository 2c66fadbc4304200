"""Nested widths: how many groups of channels, always the first ones, an input needs."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.dynamic.channel_gating import OnChannels, known
from secateur.dynamic.decision import Decision, openness, straight_through
from secateur.dynamic.gates import Gate, Squeeze
from secateur.dynamic.method import GATES, bounded
from secateur.dynamic.sites import Site

__all__ = ["Nested", "WidthGate"]


class WidthGate(Gate):
    """One logit for each group of channels; a group is open if all before it are.

    Parameters
    ----------
    site : Site
    groups : int
        Into which the units are cut, in their order; as many as there are units at most.
    reduction : int
    opening : float
    """

    group_of: Tensor

    def __init__(self, site: Site, groups: int, reduction: int, opening: float) -> None:
        super().__init__(site)
        self.groups = min(groups, site.units)
        self.squeeze = Squeeze(site, reduction, opening, outputs=self.groups)
        # [units]: the group that each unit is in.
        groups_of = torch.arange(site.units) * self.groups // site.units
        self.register_buffer("group_of", groups_of, persistent=False)

    @property
    def macs(self) -> int:
        return self.squeeze.macs

    @property
    def choices(self) -> int:
        return self.groups

    def decide(self, x: Tensor) -> Decision:
        logits = self.squeeze(x)
        if not torch.is_grad_enabled():
            sure = straight_through(logits)
            sure[:, 0] = 1.0
            sure = sure.cumprod(1)[:, self.group_of]
            return Decision(sure, sure)
        # The first group is what every input gets.
        always = torch.ones_like(logits[:, :1])
        opened = torch.cat([always, straight_through(logits)[:, 1:]], 1).cumprod(1)
        wanted = torch.cat([always, openness(logits)[:, 1:]], 1).cumprod(1)
        return Decision(opened[:, self.group_of], wanted[:, self.group_of])

    def pattern(self, share: float) -> Tensor:
        open_groups = max(1, round(share * self.groups))
        return (self.group_of < open_groups).cpu()


@GATES.register("nested")
class Nested(OnChannels):
    """A width for every input: the first so many groups of channels, as in a slimmable network.

    The nested groups of runtime neural pruning (Lin et al. 2017) and slimmable networks, Yu et al.
    2019 (arXiv:1812.08928), chosen by a small network, straight-through. What is open is a prefix,
    so that skipping needs no copy of the weights, and inputs fall into few buckets.

    Parameters
    ----------
    groups : int, default 4
        Widths to choose from.
    reduction : int, default 16
        The hidden layer is ``max(1, c_in // reduction)`` wide.
    opening : float, default 2.0
        Bias that gates start with.
    target : {"each", "macs"}, default "each"
        Whether every gate comes to the density, or all together in multiply-accumulates. The first
        group is always open: a density below ``1 / groups`` is not reached.

    Examples
    --------
    >>> Nested(groups=8).spec
    'nested:groups=8'
    """

    name = "nested"

    def __init__(
        self, groups: int = 4, reduction: int = 16, opening: float = 2.0, target: str = "each"
    ) -> None:
        known(self.name, "target", target, ("each", "macs"))
        self.groups = int(bounded(self.name, "groups", groups, 2, 1e6))
        self.reduction = int(bounded(self.name, "reduction", reduction, 1, 1e6))
        self.opening = bounded(self.name, "opening", opening, 0.0, 100.0, above=True)
        self.target = target

    def gate(self, site: Site) -> Gate:
        return WidthGate(site, self.groups, self.reduction, self.opening)
