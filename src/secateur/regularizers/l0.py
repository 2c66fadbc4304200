"""L0: learn with gates that are exactly zero some of the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from secateur.attached import Target, as_units
from secateur.attached.checks import checked
from secateur.regularizers.base import REGULARIZERS
from secateur.regularizers.computing import Computing

__all__ = ["L0"]

LOW, HIGH = -0.1, 1.1
BETA = 2.0 / 3.0


class _Gate(nn.Module):
    """Multiplies every unit by its gate: drawn in training, the expected one in eval mode."""

    def __init__(self, target: Target, log_alpha: float) -> None:
        super().__init__()
        self.weight, self.tiling = target.weight, target.tiling
        values = target.value
        start = torch.full(self.tiling.grid, log_alpha, dtype=values.dtype, device=values.device)
        self.log_alpha = nn.Parameter(start)

    def gates(self) -> Tensor:
        logits: Tensor = self.log_alpha
        if self.training:
            noise = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = (noise.log() - (-noise).log1p() + logits) / BETA
        return (logits.sigmoid() * (HIGH - LOW) + LOW).clamp(0.0, 1.0)

    def forward(self, plain: Tensor) -> Tensor:
        return plain * self.weight.stored(self.tiling.spread(self.gates()))

    def expected(self) -> Tensor:
        """Expected number of weights that are not zero."""
        open_ = (self.log_alpha - BETA * math.log(-LOW / HIGH)).sigmoid()
        return (open_ * self.tiling.sizes().to(open_.device)).sum()


@REGULARIZERS.register("l0")
class L0(Computing):
    r"""Hard-concrete gates on units, λ E‖w‖₀ (arXiv:1712.01312).

    Louizos et al. 2018: each unit is multiplied by a gate z = min(1, max(0, s̄)) with
    s̄ = s (ζ − γ) + γ and s = sigmoid((log u − log(1 − u) + log α) / β), u uniform, drawn at
    every forward pass in training; in eval mode s = sigmoid(log α). The penalty is
    λ Σ_g \|g\| sigmoid(log α_g − β log(−γ / ζ)), with γ = −0.1, ζ = 1.1, β = 2/3. `finish`
    multiplies the gates of eval mode into the weights.

    Parameters
    ----------
    granularity : str, default "filter"
        What has one gate.
    strength : float, default 1e-6
        λ; the paper takes 0.1 divided by the number of training examples.
    droprate : float, default 0.5
        Chance that a gate is low at the start; take little, such as 0.05, for a trained model.

    Raises
    ------
    InputError, UnknownNameError, NothingToPruneError

    Examples
    --------
    The gates are trained too, so the optimizer has to know them:

    >>> layer = nn.Linear(4, 3)
    >>> reg = L0(droprate=0.05).attach(layer)
    >>> optimizer = torch.optim.SGD([*layer.parameters()], lr=0.1)
    >>> len(optimizer.param_groups[0]["params"]), len(reg.parameters())
    (3, 1)
    >>> reg.finish()
    >>> list(layer.state_dict())
    ['weight', 'bias']
    """

    name = "l0"

    def __init__(
        self, granularity: str = "filter", strength: float = 1e-6, droprate: float = 0.5
    ) -> None:
        self.granularity, self.units = granularity, as_units(granularity)
        self.strength = checked(self.name, "strength", strength)
        self.droprate = checked(self.name, "droprate", droprate, low=1e-6, high=1 - 1e-6)

    def rule(self, target: Target) -> nn.Module:
        return _Gate(target, math.log(1 - self.droprate) - math.log(self.droprate))

    def penalty(self) -> Tensor:
        return self.strength * torch.stack([each.rule.expected() for each in self.computed]).sum()
