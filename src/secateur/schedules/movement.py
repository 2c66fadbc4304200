"""Movement pruning: weights that move towards zero go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.attached import Target, as_units, compute_weights, lowest
from secateur.attached.checks import checked
from secateur.schedules.amounts import MovementCubic
from secateur.schedules.moving import DYNAMICS, Dynamic

__all__ = ["Movement"]


class _Straight(torch.autograd.Function):
    """The mask of the scores, whose gradient is that of the mask."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, share: float) -> Tensor:
        return (~lowest(scores, share)).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Rule(nn.Module):
    def __init__(self, target: Target) -> None:
        super().__init__()
        self.weight, self.tiling, self.share = target.weight, target.tiling, 0.0
        values = target.value
        self.scores = nn.Parameter(
            torch.zeros(self.tiling.grid, dtype=values.dtype, device=values.device)
        )

    def forward(self, plain: Tensor) -> Tensor:
        mask: Tensor = _Straight.apply(self.scores, self.share)
        return plain * self.weight.stored(self.tiling.spread(mask))


@DYNAMICS.register("movement")
class Movement(Dynamic):
    """Learn scores straight through the mask, W ⊙ Top_v(S) (arXiv:2005.07683).

    Sanh et al. 2020: ∂L/∂S = ∂L/∂W' ⊙ W, so that S adds up −Σ g·w and a weight that moves towards
    zero falls behind, however large it is. The share of every layer that goes follows the cubic
    with warm-up and cool-down. The scores are trained: give `parameters` to the optimizer, in the
    paper with a rate of their own (1e-2).

    Parameters
    ----------
    sparsity : float, default 0.9
        Of every layer at the end.
    steps : int, default 10000
        Training steps in all.
    warmup, cooldown : float, default 0.1
        Shares of the steps before pruning starts and after it ends.
    granularity : str, default "element"
        What has one score.

    Raises
    ------
    InputError, UnknownNameError, NothingToPruneError

    Examples
    --------
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[3.0, 1.0]]))
    >>> method = Movement(sparsity=0.5, steps=1, warmup=0.0, cooldown=0.0).attach(layer)
    >>> layer(torch.tensor([[1.0, -1.0]])).sum().backward()
    >>> method.parameters()[0].grad.tolist()
    [[3.0, -1.0]]
    >>> optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    >>> optimizer.step()
    >>> method.step()
    >>> layer.weight.tolist()
    [[0.0, 1.0]]
    """

    name = "movement"

    def __init__(
        self,
        sparsity: float = 0.9,
        steps: int = 10000,
        warmup: float = 0.1,
        cooldown: float = 0.1,
        granularity: str = "element",
    ) -> None:
        self.granularity, self.units = granularity, as_units(granularity)
        self.steps = int(checked(self.name, "steps", steps, low=1))
        self.sparsity = checked(self.name, "sparsity", sparsity, high=1.0)
        self.warmup, self.cooldown = warmup, cooldown
        self._amount = MovementCubic(sparsity, self.steps, warmup=warmup, cooldown=cooldown)

    def begin(self, model: nn.Module) -> None:
        self.computed, past = compute_weights(model, self.targets, _Rule)
        self.skipped += past
        self.targets = [each.target for each in self.computed]

    def parameters(self) -> list[nn.Parameter]:
        return [each.rule.scores for each in self.computed]

    def update(self) -> None:
        self._look(self._amount.sparsity(self.steps_done))

    def finish(self) -> None:
        self._look(self._amount.target)
        for each in self.computed:
            each.fold()
        self.computed = []

    def _look(self, share: float) -> None:
        for each in self.computed:
            each.rule.share = share
            self.zeros[each.target.name] = lowest(each.rule.scores, share)

    def state(self) -> dict[str, Any]:
        return {
            "scores": {
                each.target.name: each.rule.scores.detach().clone() for each in self.computed
            }
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        for each in self.computed:
            each.rule.scores.copy_(state["scores"][each.target.name])
        self._look(self._amount.sparsity(self.steps_done))
