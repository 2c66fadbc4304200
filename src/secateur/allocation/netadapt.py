"""NetAdapt: one group shrinks at a time, the one whose loss is found to matter least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import nn

from secateur import specs
from secateur.allocation.base import ALLOCATIONS
from secateur.allocation.problem import Amounts, Problem
from secateur.allocation.searching import Excess, Searching, onwards
from secateur.errors import InputError, suggestion

__all__ = ["NetAdapt", "Rule"]

Rule = Literal["accuracy", "ratio"]

SHORTEST = 0.1
"""Of the first step. The published steps alone would never pass 37.5 % of the dense cost."""


@ALLOCATIONS.register("netadapt")
class NetAdapt(Searching):
    """Step by step to the budget: every group proposes, the best proposal is taken.

    Yang et al. 2018 (arXiv:1804.03230). In iteration i the cost has to fall by ``step *
    decay**(i - 1)`` of the dense cost. Every group proposes the smallest amount with which it
    alone achieves that; a group that cannot makes no proposal. All proposals are tried out and
    the best is taken. The last step ends at the budget. Where no group can take a step alone, it
    is halved until one can.

    Unlike in the paper, what `tune` does to a proposal is not carried over to the next iteration:
    every copy starts from the weights that the model was given with, as does the result.

    Parameters
    ----------
    rule : {"accuracy", "ratio"}, default "accuracy"
        ``"accuracy"``, the paper's, takes the proposal of highest value; ``"ratio"``, that of the
        official code, the one whose value drops least per cost saved. Of equals the first group.
    step : float, default 0.025
        Share of the dense cost to save in the first iteration.
    decay : float, default 0.96
        Factor on the step after every iteration, down to a tenth of the first step.
    tune : callable, optional
        ``tune(model)`` trains a pruned copy for a while before it is tried out, in place. In
        Python only, as ``allocation=NetAdapt(tune=...)``.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur.allocation import GroupScores
    >>> groups = [GroupScores(name, np.arange(4.0)) for name in ("matters", "does not")]
    >>> problem = Problem(
    ...     groups, [np.arange(4)] * 2, lambda amounts: {"macs": 10.0 - sum(amounts)}, {"macs": 6},
    ...     evaluate=lambda amounts: 1.0 - 0.2 * amounts[0] - 0.1 * amounts[1],
    ... )
    >>> NetAdapt(step=0.1).amounts(problem)
    (1, 3)
    """

    name = "netadapt"

    def __init__(
        self,
        rule: Rule = "accuracy",
        step: float = 0.025,
        decay: float = 0.96,
        tune: Callable[[nn.Module], object] | None = None,
    ) -> None:
        if rule not in get_args(Rule):
            raise InputError(
                f"allocation 'netadapt': unknown rule {rule!r}"
                + suggestion(str(rule), get_args(Rule))
            )
        for what, share in (("step", step), ("decay", decay)):
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
                raise InputError(f"allocation 'netadapt': {what}={share!r} must lie in (0, 1]")
        if tune is not None and not callable(tune):
            raise InputError(
                f"allocation 'netadapt': tune must be a function of a model, not {tune!r}; "
                "give it in Python, as NetAdapt(tune=...)"
            )
        self.rule, self.step, self.decay, self.tune = rule, step, decay, tune

    @property
    def spec(self) -> str:
        # A function has no spelling.
        return specs.spec(NetAdapt(self.rule, self.step, self.decay), self.name)

    def amounts(self, problem: Problem) -> Amounts:
        excess = Excess(problem)
        present, step = problem.none, self.step
        value = problem.value(present, self.name) if self.rule == "ratio" else 0.0
        while not problem.met(present):
            left = excess(present)
            proposals, ahead = self._proposals(problem, excess, present, step), step
            while not proposals and ahead > 1e-6:
                ahead /= 2
                proposals = self._proposals(problem, excess, present, ahead)
            if not proposals:
                # Only several groups together save anything.
                return onwards(problem, present)
            values = problem.values(proposals, self.name)
            tried = list(zip(values, proposals, strict=True))
            if self.rule == "accuracy":
                value, present = max(tried, key=lambda each: each[0])
            else:
                before = value
                value, present = min(
                    tried, key=lambda each: (before - each[0]) / (left - excess(each[1]))
                )
            step = max(step * self.decay, SHORTEST * self.step)
        return present

    def _proposals(
        self, problem: Problem, excess: Excess, present: Amounts, step: float
    ) -> list[Amounts]:
        """For every group that can, the smallest amount with which it alone saves a step."""
        target = max(excess(present) - step, 0.0)
        found = []
        for group, allowed in enumerate(problem.allowed):
            counts = allowed[allowed > present[group]].tolist()
            choices = [(*present[:group], count, *present[group + 1 :]) for count in counts]
            if not choices or not excess.within(choices[-1], target):
                continue
            low, high = 0, len(choices) - 1
            while low < high:
                middle = (low + high) // 2
                if excess.within(choices[middle], target):
                    high = middle
                else:
                    low = middle + 1
            found.append(choices[low])
        return found
