"""Dynamic network surgery: prune and splice by two thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.attached import Target, as_units, compute_weights
from secateur.attached.checks import checked
from secateur.errors import InputError
from secateur.schedules.moving import DYNAMICS, Dynamic

__all__ = ["NetworkSurgery"]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plain: Tensor, mask: Tensor) -> Tensor:
        return plain * mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Masked weights go on learning, or none could come back.
        return grad, None


class _Rule(nn.Module):
    def __init__(self, target: Target, c: float) -> None:
        super().__init__()
        values = target.value.detach()
        whole = torch.ones(values.shape, dtype=torch.bool, device=values.device)
        self.register_buffer("mask", whole, persistent=False)
        sizes = values.float().abs()
        level = max(float(sizes.mean() + c * sizes.std(correction=0)), 0.0)
        self.low, self.high = 0.9 * level, 1.1 * level

    def forward(self, plain: Tensor) -> Tensor:
        result: Tensor = _Masked.apply(plain, self.mask)
        return result


@DYNAMICS.register("network_surgery", "dns")
class NetworkSurgery(Dynamic):
    r"""Prune below one threshold, splice back above another (arXiv:1608.04493).

    Guo et al. 2016: the model computes with w ⊙ T while all of w is trained. T becomes 0 where
    \|w\| < a, 1 where \|w\| > b, and stays in between; a and b are 0.9 and 1.1 times
    max(μ + c σ, 0), with mean and deviation of \|w\| of the layer at the start. A layer is looked
    at with a probability of (1 + γ t)^(−1) at step t.

    Parameters
    ----------
    c : float, default 1.0
        The more, the more is pruned; may be negative.
    low, high : float, optional
        a and b themselves, the same for all layers.
    gamma : float, default 1e-4
        How quickly updates become rare.
    seed : int, default 0

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[0.1, 0.5, 1.0]]))
    >>> method = NetworkSurgery(low=0.3, high=0.6).attach(layer)
    >>> method.step()
    >>> layer.weight.tolist()
    [[0.0, 0.5, 1.0]]
    """

    name = "network_surgery"
    units = as_units("element")

    def __init__(
        self,
        c: float = 1.0,
        low: float | None = None,
        high: float | None = None,
        gamma: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.c = checked(self.name, "c", c, low=-1e6)
        if (low is None) != (high is None):
            raise InputError("network_surgery: set both low and high, or neither")
        self.low = None if low is None else checked(self.name, "low", low)
        self.high = None if high is None else checked(self.name, "high", high, low=self.low or 0.0)
        self.gamma = checked(self.name, "gamma", gamma)
        self.seed = int(checked(self.name, "seed", seed))
        self._random = torch.Generator().manual_seed(self.seed)

    def begin(self, model: nn.Module) -> None:
        self.computed, past = compute_weights(model, self.targets, self._rule)
        self.skipped += past
        self.targets = [each.target for each in self.computed]

    def _rule(self, target: Target) -> nn.Module:
        rule = _Rule(target, self.c)
        if self.low is not None and self.high is not None:
            rule.low, rule.high = self.low, self.high
        return rule

    def update(self) -> None:
        chance = 1.0 / (1.0 + self.gamma * (self.steps_done - 1))
        for each in self.computed:
            if float(torch.rand((), generator=self._random)) > chance:
                continue
            rule, sizes = each.rule, each.plain.detach().abs()
            rule.mask = (sizes > rule.high) | (rule.mask & (sizes >= rule.low))
            self.zeros[each.target.name] = each.target.weight.canonical(~rule.mask)

    def finish(self) -> None:
        for each in self.computed:
            each.fold()
        self.computed = []

    def state(self) -> dict[str, Any]:
        return {
            "random": self._random.get_state(),
            "thresholds": {
                each.target.name: (each.rule.low, each.rule.high) for each in self.computed
            },
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._random.set_state(state["random"])
        for each in self.computed:
            name = each.target.name
            each.rule.low, each.rule.high = state["thresholds"][name]
            each.rule.mask = each.target.weight.stored(~self.zeros[name])
