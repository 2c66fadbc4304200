"""Soft filter pruning: zero the weakest filters now and then, and let them grow back."""

from __future__ import annotations

from secateur.attached import as_units, lowest
from secateur.attached.checks import checked
from secateur.schedules.amounts import SCHEDULES
from secateur.schedules.moving import DYNAMICS, Dynamic, squares

__all__ = ["SoftFilter"]


@DYNAMICS.register("soft_filter", "sfp")
class SoftFilter(Dynamic):
    """Zero the filters of smallest L2 norm every epoch, without freezing them (arXiv:1808.06866).

    He et al. 2018: ``floor(P * n)`` of the n filters of every layer become zero, ties by index,
    training goes on with all of them, and the choice is made anew the next time; `finish` makes
    the last one. Their asymptotic variant (ASFP, arXiv:1808.07471) lets P rise: ``schedule=asfp``
    with as many `rounds` as epochs.

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
    ) -> None:
        self.sparsity = checked(self.name, "sparsity", sparsity, high=1.0)
        self.granularity, self.units = granularity, as_units(granularity)
        self.every = int(checked(self.name, "every", every, low=1))
        self.schedule = schedule
        self.rounds = int(checked(self.name, "rounds", rounds, low=1))
        self._amount = SCHEDULES[schedule](target=self.sparsity, steps=self.rounds)

    def update(self) -> None:
        if self.steps_done % self.every == 0:
            self._choose(self._amount.sparsity(self.steps_done // self.every))

    def finish(self) -> None:
        self._choose(self._amount.target)

    def _choose(self, share: float) -> None:
        for target in self.targets:
            self.zeros[target.name] = lowest(squares(target), share)
        # Momentum stays: it is part of how filters come back.
        self.zero(state=False)
