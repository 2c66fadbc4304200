"""What a gate is: a small network that looks at a layer's input and decides what is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from secateur.dynamic.decision import Decision
from secateur.dynamic.flow import Flow, Policy
from secateur.dynamic.sites import Site

__all__ = ["Gate", "Squeeze", "pooled"]

# Positions of the buffer that holds a gate's pace.
START, TARGET, OVER, DONE = range(4)


class Gate(nn.Module, ABC):
    """Base of every gate: one for each site, inside the layer whose input it looks at.

    Parameters
    ----------
    site : Site

    Attributes
    ----------
    site_name : str
    units : int
    pace : Tensor
        ``[start, target, over, done]``: the density to begin with, the one to come to, in how many
        training passes, and how many there were. A buffer, so that what is saved goes on as it
        was.
    decision : Decision or None
        Of the last batch.
    flow : Flow or None
        How the last batch is computed, in skipping mode.
    policy : Policy
        When skipping pays; see `Gated.skip`.
    forced : Tensor or None
        ``[units]`` or ``[examples, units]`` of bool: what is open, whatever the gate says.
    skipping : bool
        Whether closed units are left out in eval mode.
    narrow : bool
        Whether tensors in between are narrower then, or as wide as ever with zeros in them; for
        layers, whether they run on no example at all.
    routed : bool
        Whether layers ask for the `flow`.
    scales_reads : bool
        Whether the scale of a decision acts where units are read.
    """

    pace: Tensor

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site_name, self.units = site.name, site.units
        self.features_dim = site.features_dim
        self.register_buffer("pace", torch.tensor([1.0, 1.0, 0.0, 0.0]))
        self.decision: Decision | None = None
        self.flow: Flow | None = None
        self.policy = Policy()
        self.forced: Tensor | None = None
        self.skipping = False
        self.narrow = True
        self.routed = False
        self.scales_reads = False

    @abstractmethod
    def decide(self, x: Tensor) -> Decision:
        """Decide for a batch; ``x`` is what the layer reads, examples first."""

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates that the gate itself costs for one example."""

    @property
    def choices(self) -> int:
        """How many things it opens each for itself: units, unless several share a logit."""
        return self.units

    @property
    def density(self) -> Tensor:
        """The density that losses and choices go by now: between the start and the target."""
        start, target, over, done = self.pace.unbind()
        left = (1 - done / over.clamp(min=1)).clamp(min=0) * (over > 0)
        return target + (start - target) * left

    def head_for(self, target: float, *, start: float | None = None, over: int = 0) -> None:
        """Set the density to come to, from which, and in how many training passes."""
        begin = target if start is None else start
        self.pace.copy_(torch.tensor([begin, target, float(over), 0.0]))

    @property
    def skips(self) -> bool:
        """Whether closed units are left out now, and not just multiplied by zero."""
        return self.skipping and not self.training

    def forward(self, x: Tensor) -> Decision:
        """Decide, and keep the decision for the layers that follow it."""
        decision = self.decide(x)
        if self.forced is not None:
            forced = self.forced.to(decision.open).expand_as(decision.open)
            decision = Decision(forced, forced, decision.scale)
        if self.training and torch.is_grad_enabled():
            self.pace[DONE] += 1
        self.decision = decision
        if self.skips and self.routed:
            self.flow = self.policy.flow(decision.open)
        return decision

    def pattern(self, share: float) -> Tensor:
        """``[units]`` of bool with so many open, as decisions of this gate look."""
        order = torch.randperm(self.units, generator=torch.Generator().manual_seed(self.units))
        return order < max(1, round(share * self.units))

    def forget(self) -> None:
        """Let go of the last batch."""
        self.decision, self.flow = None, None

    def __getstate__(self) -> dict[str, Any]:
        # Tensors inside a graph of gradients can be neither copied nor pickled.
        return {**self.__dict__, "decision": None, "flow": None}


def pooled(x: Tensor, features_dim: int) -> Tensor:
    """The mean over everything but examples and features: ``[examples, features]``.

    Examples
    --------
    >>> pooled(torch.ones(2, 3, 4, 4), 1).shape, pooled(torch.ones(2, 5, 3), -1).shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if x.dim() == 2:
        return x
    return x.flatten(2).mean(2) if features_dim == 1 else x.flatten(1, -2).mean(1)


class Squeeze(nn.Module):
    """Pooling and two linear layers: ``features -> max(1, features // reduction) -> units``.

    Parameters
    ----------
    site : Site
    reduction : int
    opening : float
        Bias of the last layer: how far open the gate starts.
    outputs : int, optional
        By default as many as the site has units.

    Examples
    --------
    >>> squeeze = Squeeze(Site("conv", units=4, features=3, features_dim=1), 16, 2.0)
    >>> squeeze.hidden.out_features, bool((squeeze(torch.zeros(2, 3, 8, 8)) > 1.9).all())
    (1, True)
    """

    def __init__(
        self, site: Site, reduction: int, opening: float, outputs: int | None = None
    ) -> None:
        super().__init__()
        self.features_dim = site.features_dim
        self.hidden = nn.Linear(site.features, max(1, site.features // reduction))
        self.out = nn.Linear(self.hidden.out_features, outputs or site.units)
        # Small, so that every input finds the gate open at first; not zero, or nothing before
        # it would ever get a gradient.
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.constant_(self.out.bias, opening)
        # A hidden layer of one unit that is dead would never learn.
        nn.init.ones_(self.hidden.bias)

    @property
    def macs(self) -> int:
        return self.hidden.weight.numel() + self.out.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        """``[examples, units]`` of logits."""
        logits: Tensor = self.out(self.hidden(pooled(x, self.features_dim)).relu())
        return logits
