"""Channel gating: a small network at the input of a layer says which channels it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from secateur.dynamic.channel_sites import channel_sites
from secateur.dynamic.decision import (
    Decision,
    at_least_one,
    gumbel_sigmoid,
    openness,
    straight_through,
)
from secateur.dynamic.finding import Skipped, Traced
from secateur.dynamic.gates import Gate, Squeeze
from secateur.dynamic.method import GATES, DynamicMethod, Kind, bounded
from secateur.dynamic.sites import Site
from secateur.errors import UnknownNameError, suggestion

__all__ = ["ChannelGate", "ChannelGating", "OnChannels"]

ESTIMATORS = ("straight_through", "gumbel")


class OnChannels(DynamicMethod):
    """Base of methods that open and close coupled channels, neurons and heads."""

    kind: ClassVar[Kind] = "channel"

    def sites(self, traced: Traced, *, streams: bool) -> tuple[Sequence[Site], Skipped]:
        return channel_sites(traced, streams=streams)


class ChannelGate(Gate):
    """``Linear(c_in, h) -> ReLU -> Linear(h, units)`` on the mean of the layer's input.

    Parameters
    ----------
    site : Site
    reduction : int
        ``h = max(1, c_in // reduction)``.
    opening : float
        Bias of the last layer.
    estimator : {"straight_through", "gumbel"}
    temperature : float
        Of the Gumbel-sigmoid.
    """

    def __init__(
        self, site: Site, reduction: int, opening: float, estimator: str, temperature: float
    ) -> None:
        super().__init__(site)
        self.squeeze = Squeeze(site, reduction, opening)
        self.estimator, self.temperature = estimator, temperature

    @property
    def macs(self) -> int:
        return self.squeeze.macs

    def decide(self, x: Tensor) -> Decision:
        logits = self.squeeze(x)
        if self.training and self.estimator == "gumbel":
            opened = gumbel_sigmoid(logits, self.temperature)
        else:
            opened = straight_through(logits)
        return Decision(at_least_one(opened, logits), openness(logits))


@GATES.register("channel")
class ChannelGating(OnChannels):
    """A small network at a layer's input opens and closes each of its output channels.

    Its decision is 0 or 1; gradients pass as if it were the sigmoid, after Bengio et al. 2013
    (arXiv:1308.3432), or of a noisy one (Gumbel-sigmoid, Jang et al. 2017, arXiv:1611.01144).

    Parameters
    ----------
    estimator : {"straight_through", "gumbel"}, default "straight_through"
        How gradients get past the choice. Noise tries out what a certain gate never would; norms
        then see other activations in training than in inference, so that the density that
        inference finds is less exact.
    temperature : float, default 1.0
        Of the Gumbel-sigmoid.
    reduction : int, default 16
        The hidden layer is ``max(1, c_in // reduction)`` wide.
    opening : float, default 2.0
        Bias that gates start with: open, with a probability of 0.88 under noise.
    target : {"each", "macs"}, default "each"
        Whether every gate comes to the density, or all together in multiply-accumulates.

    Examples
    --------
    >>> ChannelGating(estimator="gumbel").spec
    'channel:estimator=gumbel'
    """

    name = "channel"

    def __init__(
        self,
        estimator: Literal["straight_through", "gumbel"] = "straight_through",
        temperature: float = 1.0,
        reduction: int = 16,
        opening: float = 2.0,
        target: Literal["each", "macs"] = "each",
    ) -> None:
        known("channel", "estimator", estimator, ESTIMATORS)
        known("channel", "target", target, ("each", "macs"))
        self.estimator: Literal["straight_through", "gumbel"] = estimator
        self.temperature = bounded(self.name, "temperature", temperature, 0.0, 100.0, above=True)
        self.reduction = int(bounded(self.name, "reduction", reduction, 1, 1e6))
        self.opening = bounded(self.name, "opening", opening, 0.0, 100.0, above=True)
        self.target = target

    def gate(self, site: Site) -> Gate:
        return ChannelGate(site, self.reduction, self.opening, self.estimator, self.temperature)


def known(method: str, name: str, value: object, choices: Sequence[str]) -> None:
    """Raise where an option is none of its choices.

    Examples
    --------
    >>> known("channel", "target", "mac", ["each", "macs"])
    Traceback (most recent call last):
    ...
    secateur.errors.UnknownNameError: channel: unknown target 'mac'; did you mean 'macs'?
    """
    if value not in choices:
        raise UnknownNameError(
            f"{method}: unknown {name} {value!r}{suggestion(str(value), choices)}"
        )
