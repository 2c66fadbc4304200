"""Soft filter pruning: zero the weakest filters now and then, and let them grow back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from secateur.attached import Target, as_units, lowest
from secateur.attached.checks import checked
from secateur.attached.targets import wide
from secateur.criteria import FPGM, ElementwiseCriterion, as_criterion
from secateur.errors import InputError
from secateur.graph.coupling import Member
from secateur.schedules.amounts import SCHEDULES
from secateur.schedules.moving import DYNAMICS, Dynamic

if TYPE_CHECKING:
    from secateur.criteria import Criterion

__all__ = ["SoftFilter"]


@DYNAMICS.register("soft_filter", "sfp")
class SoftFilter(Dynamic):
    """Zero the lowest filters every epoch, without freezing them (arXiv:1808.06866).

    He et al. 2018: ``floor(P * n)`` of the n filters of every layer become zero, those of smallest
    L2 norm, ties by index; training goes on with all of them, and the choice is made anew the next
    time; `finish` makes the last one. With ``criterion=fpgm`` those nearest the geometric median
    go, as in their later paper (arXiv:1811.00250). Their asymptotic variant (ASFP,
    arXiv:1808.07471) lets P rise: ``schedule=asfp`` with as many `rounds` as epochs.

    Parameters
    ----------
    sparsity : float, default 0.3
        P, the share of the filters of every layer.
    every : int, default 100
        Steps between two choices: those of an epoch.
    schedule : str, default "one_shot"
        Name of a schedule for P; ``"one_shot"`` keeps it the same throughout.
    rounds : int, default 1
        Choices until the schedule reaches P.
    granularity : str, default "filter"
    criterion : str, default "magnitude"
        One that needs nothing but the weights: ``"magnitude"``, ``"l1"``, ``"lp:p=3"``, and for
        whole filters or channels ``"fpgm"``. Those that need data are for `secateur.prune`.

    Raises
    ------
    InputError, UnknownNameError, NothingToPruneError

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 4)
    >>> method = SoftFilter(sparsity=0.5, every=2).attach(layer)
    >>> method.step(), method.current, method.step(), method.current
    (None, 0.0, None, 0.5)
    """

    name = "soft_filter"

    def __init__(
        self,
        sparsity: float = 0.3,
        every: int = 100,
        schedule: str = "one_shot",
        rounds: int = 1,
        granularity: str = "filter",
        criterion: str = "magnitude",
    ) -> None:
        self.sparsity = checked(self.name, "sparsity", sparsity, high=1.0)
        self.granularity, self.units = granularity, as_units(granularity)
        self.every = int(checked(self.name, "every", every, low=1))
        self.schedule = schedule
        self.rounds = int(checked(self.name, "rounds", rounds, low=1))
        self.criterion = criterion
        self._criterion = _checked(as_criterion(criterion), granularity)
        self._amount = SCHEDULES[schedule](target=self.sparsity, steps=self.rounds)

    def update(self) -> None:
        if self.steps_done % self.every == 0:
            self._choose(self._amount.sparsity(self.steps_done // self.every))

    def finish(self) -> None:
        self._choose(self._amount.target)

    def _choose(self, share: float) -> None:
        for target in self.targets:
            self.zeros[target.name] = lowest(self._scores(target), share)
        # Momentum stays: it is part of how filters come back.
        self.zero(state=False)

    @torch.no_grad()
    def _scores(self, target: Target) -> Tensor:
        """One score for every unit of a weight."""
        tiling, values = target.tiling, wide(target.canonical().detach())
        if isinstance(self._criterion, ElementwiseCriterion):
            return tiling.sums(self._criterion.elements(values.clone(), None))
        scores = self._criterion.member_scores(_FILTERS, tiling.rows(values), None, "conv")
        assert scores is not None
        return scores.reshape(tiling.grid)


# What a criterion is told of the weight that it scores.
_FILTERS = Member("weight", 0, "producer", np.zeros(0, dtype=np.int64))


def _checked(criterion: Criterion, granularity: str) -> Criterion:
    """The criterion, if it can score units by their weights alone."""
    if criterion.streams:
        raise InputError(
            f"soft_filter: criterion {criterion.name!r} needs data, and the choice is made between "
            "training steps; take magnitude, l1, lp or fpgm, or prune with secateur.prune"
        )
    whole = isinstance(criterion, FPGM)
    fits = whole or isinstance(criterion, ElementwiseCriterion)
    if not fits or not criterion.looks_at(_FILTERS, (2, 2, 3, 3), "conv"):
        raise InputError(
            f"soft_filter: criterion {criterion.spec!r} does not score weights by their values; "
            "take magnitude, l1, lp or fpgm"
        )
    if whole and granularity not in ("filter", "channel"):
        raise InputError(
            f"soft_filter: criterion 'fpgm' compares whole filters or channels, not units of "
            f"granularity {granularity!r}"
        )
    return criterion
