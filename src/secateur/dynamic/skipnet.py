"""SkipNet: gates without noise that skip residual layers, supervised first, then by reward."""

from __future__ import annotations

from secateur.dynamic.aig import LayerGate, OnLayers
from secateur.dynamic.channel_gating import known
from secateur.dynamic.gates import Gate
from secateur.dynamic.method import GATES, bounded
from secateur.dynamic.sites import Site

__all__ = ["SkipNet"]


@GATES.register("skipnet")
class SkipNet(OnLayers):
    """Feed-forward gates that let an input skip residual branches: ``x + G(x) F(x)``.

    The supervised stage of SkipNet, Wang et al. 2018 (arXiv:1711.09485): a hard choice forward,
    the sigmoid's gradient backward, without noise. All layers together come to the density.

    Parameters
    ----------
    reduction : int, default 16
        The hidden layer is ``max(1, c // reduction)`` wide.
    opening : float, default 2.0
        Bias that gates start with.
    target : {"macs", "each"}, default "macs"
        Whether all together come to the density in multiply-accumulates, or every layer does.

    Examples
    --------
    >>> SkipNet(target="each").spec
    'skipnet:target=each'
    """

    name = "skipnet"

    def __init__(self, reduction: int = 16, opening: float = 2.0, target: str = "macs") -> None:
        known(self.name, "target", target, ("macs", "each"))
        self.reduction = int(bounded(self.name, "reduction", reduction, 1, 1e6))
        self.opening = bounded(self.name, "opening", opening, 0.0, 100.0, above=True)
        self.target = target

    def gate(self, site: Site) -> Gate:
        return LayerGate(site, self.reduction, self.opening, None)
