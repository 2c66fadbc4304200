"""Movement pruning: weights that move towards zero go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.attached import Target, add_to_gradient, as_units, compute_weights, lowest
from secateur.attached.checks import checked
from secateur.schedules.amounts import MovementCubic
from secateur.schedules.moving import DYNAMICS, Dynamic

__all__ = ["Movement"]


class _Straight(torch.autograd.Function):
    """The mask of the scores, whose gradient is that of the mask."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, gone: Tensor) -> Tensor:
        return (~gone).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Rule(nn.Module):
    def __init__(self, target: Target, soft: bool) -> None:
        super().__init__()
        self.weight, self.tiling = target.weight, target.tiling
        self.soft, self.level = soft, 0.0
        values = target.value
        self.scores = nn.Parameter(
            torch.zeros(self.tiling.grid, dtype=values.dtype, device=values.device)
        )

    def gone(self) -> Tensor:
        """The lowest share, or what is not above a threshold, though never all."""
        scores = self.scores.detach()
        if not self.soft:
            return lowest(scores, self.level)
        gone = scores.sigmoid() <= self.level
        return gone if not bool(gone.all()) else lowest(scores, 1.0)

    def forward(self, plain: Tensor) -> Tensor:
        mask: Tensor = _Straight.apply(self.scores, self.gone())
        return plain * self.weight.stored(self.tiling.spread(mask))


@DYNAMICS.register("movement")
class Movement(Dynamic):
    """Learn scores straight through the mask, W ⊙ Top_v(S) (arXiv:2005.07683).

    Sanh et al. 2020: ∂L/∂S = ∂L/∂W' ⊙ W, so that S adds up −Σ g·w and a weight that moves towards
    zero falls behind, however large it is. The share of every layer that goes follows the cubic
    with warm-up and cool-down. The scores are trained: give `parameters` to the optimizer, in the
    paper with a rate of their own (1e-2).

    The soft variant, which a `threshold` chooses, computes with W ⊙ 1[σ(S) > τ] and presses on all
    scores by λ · mean σ(S), the mean over layers of each one's mean: how much goes, and where, is
    up to training. τ and λ rise along the same cubic.

    Parameters
    ----------
    sparsity : float, default 0.9
        Of every layer at the end; of no meaning with a `threshold`.
    steps : int, default 10000
        Training steps in all.
    warmup, cooldown : float, default 0.1
        Shares of the steps before pruning starts and after it ends.
    granularity : str, default "element"
        What has one score.
    threshold : float, optional
        τ, 0 to 1, of the soft variant; 0.1 in the published code.
    strength : float, default 400.0
        λ of the soft variant; the published recipe's value for SQuAD.

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
        threshold: float | None = None,
        strength: float = 400.0,
    ) -> None:
        self.granularity, self.units = granularity, as_units(granularity)
        self.steps = int(checked(self.name, "steps", steps, low=1))
        self.sparsity = checked(self.name, "sparsity", sparsity, high=1.0)
        self.warmup, self.cooldown = warmup, cooldown
        self.threshold, last = None, self.sparsity
        if threshold is not None:
            self.threshold = last = checked(self.name, "threshold", threshold, high=1.0)
        self.strength = checked(self.name, "strength", strength)
        self._amount = MovementCubic(last, self.steps, warmup=warmup, cooldown=cooldown)

    def begin(self, model: nn.Module) -> None:
        soft = self.threshold is not None
        self.computed, past = compute_weights(
            model, self.targets, lambda target: _Rule(target, soft)
        )
        self.skipped += past
        self.targets = [each.target for each in self.computed]

    def parameters(self) -> list[nn.Parameter]:
        return [each.rule.scores for each in self.computed]

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add that of λ · mean σ(S), in the soft variant; the other one has none."""
        if not self.threshold:
            return
        strength = self.strength * self._amount.sparsity(self.steps_done) / self.threshold
        for scores in self.parameters():
            squashed = scores.sigmoid()
            each = strength / (len(self.computed) * scores.numel())
            add_to_gradient(scores, each * squashed * (1.0 - squashed))

    def update(self) -> None:
        self._look(self._amount.sparsity(self.steps_done))

    def finish(self) -> None:
        self._look(self._amount.target)
        for each in self.computed:
            each.fold()
        self.computed = []

    def _look(self, level: float) -> None:
        for each in self.computed:
            each.rule.level = level
            self.zeros[each.target.name] = each.rule.gone()

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
