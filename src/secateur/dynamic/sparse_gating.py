"""Sparsity-regularised gates: a price on everything that is open."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.dynamic.channel_gating import ChannelGate, OnChannels, known
from secateur.dynamic.gates import Gate
from secateur.dynamic.method import GATES, bounded, together
from secateur.dynamic.sites import Site

__all__ = ["SparseGating"]


@GATES.register("sparse_gates", "l1_gates")
class SparseGating(OnChannels):
    """Gates under an L1 term: what is open costs a price, until the density is met.

    Conditional computation, Bengio et al. 2016 (arXiv:1511.06297). With ``target="none"`` the term
    is ``strength * mean(gate)`` and the strength alone decides where closing ends; else it is
    ``strength * |mean(gate) - target|``, whose gradient does not shrink on the way to the target.

    Parameters
    ----------
    strength : float, default 1.0
        Price of all gates open, on top of the weight of the whole gate loss.
    reduction : int, default 16
        The hidden layer is ``max(1, c_in // reduction)`` wide.
    opening : float, default 2.0
        Bias that gates start with.
    target : {"each", "macs", "none"}, default "each"
        What stops at the density: every gate, all together in multiply-accumulates, or nothing,
        so that the strength alone decides.

    Examples
    --------
    >>> SparseGating(strength=0.5).spec
    'sparse_gates:strength=0.5'
    """

    name = "sparse_gates"

    def __init__(
        self,
        strength: float = 1.0,
        reduction: int = 16,
        opening: float = 2.0,
        target: str = "each",
    ) -> None:
        known(self.name, "target", target, ("each", "macs", "none"))
        self.strength = bounded(self.name, "strength", strength, 0.0, 1e6, above=True)
        self.reduction = int(bounded(self.name, "reduction", reduction, 1, 1e6))
        self.opening = bounded(self.name, "opening", opening, 0.0, 100.0, above=True)
        self.target = target

    def gate(self, site: Site) -> Gate:
        return ChannelGate(site, self.reduction, self.opening, "straight_through", 1.0)

    def loss(self, gates: Sequence[Gate], macs: Sequence[int]) -> Tensor:
        rates, targets = self.rates(gates)
        if self.target == "each":
            return self.strength * (rates - targets).abs().sum()
        if self.target == "none":
            targets = torch.zeros_like(targets)
        return self.strength * together(rates, targets, macs).abs()
