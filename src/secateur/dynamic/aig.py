"""ConvNet-AIG: whether a residual layer runs, by a gate with noise and a target rate of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from secateur.dynamic.channel_gating import known
from secateur.dynamic.decision import Decision, gumbel_sigmoid, openness, straight_through
from secateur.dynamic.finding import Skipped, Traced
from secateur.dynamic.gates import Gate, Squeeze
from secateur.dynamic.layer_sites import layer_sites
from secateur.dynamic.method import GATES, DynamicMethod, Kind, bounded
from secateur.dynamic.sites import Site

__all__ = ["AIG", "LayerGate", "OnLayers"]


class OnLayers(DynamicMethod):
    """Base of methods that let examples pass by residual branches."""

    kind: ClassVar[Kind] = "layer"

    def sites(self, traced: Traced, *, streams: bool) -> tuple[Sequence[Site], Skipped]:
        return layer_sites(traced)


class LayerGate(Gate):
    """``Linear(c, hidden) -> ReLU -> Linear(hidden, 1)`` on the mean of the branch's input.

    Parameters
    ----------
    site : Site
    reduction : int
    opening : float
    temperature : float or None
        Of the Gumbel noise in training; None for none.
    """

    def __init__(
        self, site: Site, reduction: int, opening: float, temperature: float | None
    ) -> None:
        super().__init__(site)
        self.squeeze = Squeeze(site, reduction, opening)
        self.temperature = temperature

    @property
    def macs(self) -> int:
        return self.squeeze.macs

    def decide(self, x: Tensor) -> Decision:
        logits = self.squeeze(x)
        if self.training and self.temperature is not None:
            opened = gumbel_sigmoid(logits, self.temperature)
        else:
            opened = straight_through(logits)
        return Decision(opened, openness(logits))


@GATES.register("aig")
class AIG(OnLayers):
    """A gate at every residual branch, drawn with Gumbel noise, with a target rate each.

    ConvNet-AIG, Veit and Belongie 2018 (arXiv:1711.11503). The gate loss is the mean over layers
    of ``(rate - target)^2``, the rate taken over the batch; `Gated.targets` sets one for each
    layer, the density is that of the others.

    Parameters
    ----------
    temperature : float, default 1.0
        Of the Gumbel-sigmoid, which is the paper's Gumbel softmax over two classes.
    reduction : int, default 16
        The hidden layer is ``max(1, c // reduction)`` wide; the paper's is 16 wide throughout.
    opening : float, default 2.0
        Bias that gates start with.
    target : {"each", "macs"}, default "each"
        Whether every layer comes to its rate, or all together in multiply-accumulates.

    Examples
    --------
    >>> AIG(temperature=0.5).spec
    'aig:temperature=0.5'
    """

    name = "aig"

    def __init__(
        self,
        temperature: float = 1.0,
        reduction: int = 16,
        opening: float = 2.0,
        target: str = "each",
    ) -> None:
        known(self.name, "target", target, ("each", "macs"))
        self.temperature = bounded(self.name, "temperature", temperature, 0.0, 100.0, above=True)
        self.reduction = int(bounded(self.name, "reduction", reduction, 1, 1e6))
        self.opening = bounded(self.name, "opening", opening, 0.0, 100.0, above=True)
        self.target = target

    def gate(self, site: Site) -> Gate:
        return LayerGate(site, self.reduction, self.opening, self.temperature)
