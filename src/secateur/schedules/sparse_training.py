"""SET and RigL: a constant number of weights, whose places move while training."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.allocation import as_allocation
from secateur.attached import Target, as_units, lowest
from secateur.attached.checks import checked
from secateur.attached.targets import wide
from secateur.errors import InputError, suggestion
from secateur.schedules.moving import DYNAMICS, Dynamic

__all__ = ["SET", "RigL"]

STARTS = ("random", "magnitude")


class _Moving(Dynamic):
    """Drop the weakest of what is there, grow as many elsewhere."""

    def __init__(
        self, sparsity: float, every: int, granularity: str, start: str, seed: int, allocation: str
    ) -> None:
        self.granularity, self.units = granularity, as_units(granularity)
        self.sparsity = checked(self.name, "sparsity", sparsity, high=1.0)
        self.every = int(checked(self.name, "every", every, low=1))
        if start not in STARTS:
            raise InputError(
                f"{self.name}: unknown start {start!r}{suggestion(str(start), STARTS)}"
            )
        self.start = start
        self.seed = int(checked(self.name, "seed", seed))
        self.allocation = as_allocation(allocation).name
        self._random = torch.Generator().manual_seed(self.seed)

    def begin(self, model: nn.Module) -> None:
        shapes = [target.weight.canonical_shape for target in self.targets]
        shares = as_allocation(self.allocation).sparsities(shapes, self.sparsity)
        if shares is None:
            raise InputError(
                f"{self.name}: allocation {self.allocation!r} follows scores; take one that knows "
                "each layer's share beforehand, such as 'uniform'"
            )
        for target, share in zip(self.targets, shares, strict=True):
            scores = self._drawn(target) if self.start == "random" else _sums(target, target.value)
            self.zeros[target.name] = lowest(scores, share)
        self.zero(state=True)

    @abstractmethod
    def fraction(self, step: int) -> float:
        """Share of the active units that moves at a step."""

    @abstractmethod
    def growth(self, target: Target) -> Tensor:
        """Score of every unit for being grown; the highest are."""

    def update(self) -> None:
        share = self.fraction(self.steps_done) if self.steps_done % self.every == 0 else 0.0
        if share > 0.0:
            for target in self.targets:
                self._move(target, share)
        self.zero(state=True)

    @torch.no_grad()
    def _move(self, target: Target, share: float) -> None:
        zeros = self.zeros[target.name]
        if not bool(zeros.any()):
            # What an allocation leaves dense has nowhere to grow, and nothing to give up.
            return
        strength = _sums(target, target.value).masked_fill(zeros, math.inf)
        count = math.floor(share * int((~zeros).sum()) + 1e-9)
        if count == 0:
            return
        kept = ~zeros
        kept.view(-1)[strength.flatten().argsort(stable=True)[:count]] = False
        # What was dropped just now may come back, but starts from zero like all that grows.
        target.parameter().masked_fill_(target.each(~kept), 0.0)
        order = self.growth(target).masked_fill(kept, -math.inf).flatten()
        grown = order.argsort(stable=True, descending=True)[:count]
        kept.view(-1)[grown] = True
        self.zeros[target.name] = ~kept

    def _drawn(self, target: Target) -> Tensor:
        scores = torch.rand(target.tiling.grid, generator=self._random)
        return scores.to(target.value.device)

    def finish(self) -> None:
        self.zero(state=True)

    def state(self) -> dict[str, Any]:
        return {"random": self._random.get_state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._random.set_state(state["random"])


@DYNAMICS.register("rigl")
class RigL(_Moving):
    r"""Drop the smallest weights, grow where the gradient is largest (arXiv:1911.11134).

    Evci et al. 2020: every `every` steps, until `end` of `steps`, each layer drops the fraction
    α/2 (1 + cos(π t / T_end)) of its active units of smallest \|w\|, and grows as many of the
    largest \|∂L/∂w\| among all that are not kept; what grows starts from zero. The number of
    non-zeros never changes.

    Parameters
    ----------
    sparsity : float, default 0.9
    steps : int, default 10000
        Training steps in all.
    every : int, default 100
    alpha : float, default 0.3
    end : float, default 0.75
        T_end as a share of `steps`.
    granularity : str, default "element"
    start : {"random", "magnitude"}, default "random"
        What is there at the beginning: drawn, as in the paper, or the largest of a trained model.
    seed : int, default 0
    allocation : str, default "uniform"
        Shares of the layers: one that does not depend on scores. The paper's best results are
        with ``"erk"``, which leaves small layers denser, or dense.

    Raises
    ------
    InputError
        Also from `step` when a weight has no gradient.
    UnknownNameError, NothingToPruneError

    Examples
    --------
    >>> method = RigL(steps=400)
    >>> [round(method.fraction(step), 3) for step in (0, 100, 200, 300, 400)]
    [0.3, 0.225, 0.075, 0.0, 0.0]
    """

    name = "rigl"

    def __init__(
        self,
        sparsity: float = 0.9,
        steps: int = 10000,
        every: int = 100,
        alpha: float = 0.3,
        end: float = 0.75,
        granularity: str = "element",
        start: str = "random",
        seed: int = 0,
        allocation: str = "uniform",
    ) -> None:
        super().__init__(sparsity, every, granularity, start, seed, allocation)
        self.steps = int(checked(self.name, "steps", steps, low=1))
        self.alpha = checked(self.name, "alpha", alpha, high=1.0)
        self.end = checked(self.name, "end", end, high=1.0)

    def fraction(self, step: int) -> float:
        last = self.end * self.steps
        if step >= last:
            return 0.0
        return self.alpha / 2 * (1 + math.cos(math.pi * step / last))

    def growth(self, target: Target) -> Tensor:
        gradient = target.parameter().grad
        if gradient is None:
            raise InputError(
                f"rigl: {target.name!r} has no gradient; call step() after optimizer.step() and "
                "before zero_grad()"
            )
        return _sums(target, gradient)


@DYNAMICS.register("set")
class SET(_Moving):
    r"""Drop the smallest weights, grow at random (sparse evolutionary training, arXiv:1707.04780).

    Mocanu et al. 2018: every `every` steps (an epoch) each layer drops the fraction ζ of its
    active units of smallest \|w\|, and grows as many that are drawn; what grows starts from zero.
    The number of non-zeros never changes.

    Parameters
    ----------
    sparsity : float, default 0.9
    every : int, default 100
    zeta : float, default 0.3
    granularity : str, default "element"
    start : {"random", "magnitude"}, default "random"
    seed : int, default 0
    allocation : str, default "uniform"
        Shares of the layers: one that does not depend on scores. The paper starts from an
        Erdős-Rényi graph, which ``"erk"`` is for layers without a kernel.

    Raises
    ------
    InputError, UnknownNameError, NothingToPruneError

    Examples
    --------
    >>> method = SET(sparsity=0.5, every=1).attach(nn.Linear(8, 8))
    >>> before = method.zeros["weight"].clone()
    >>> method.step()
    >>> bool((before != method.zeros["weight"]).any()), method.current
    (True, 0.5)
    """

    name = "set"

    def __init__(
        self,
        sparsity: float = 0.9,
        every: int = 100,
        zeta: float = 0.3,
        granularity: str = "element",
        start: str = "random",
        seed: int = 0,
        allocation: str = "uniform",
    ) -> None:
        super().__init__(sparsity, every, granularity, start, seed, allocation)
        self.zeta = checked(self.name, "zeta", zeta, high=1.0)

    def fraction(self, step: int) -> float:
        return self.zeta

    def growth(self, target: Target) -> Tensor:
        return self._drawn(target)


def _sums(target: Target, tensor: Tensor) -> Tensor:
    values = wide(target.weight.canonical(tensor.detach())).abs()
    return target.tiling.sums(values)
