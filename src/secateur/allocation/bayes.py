"""Bayes: shares proposed by a model of what was found so far."""

from __future__ import annotations

import warnings

import numpy as np

from secateur.allocation.base import ALLOCATIONS
from secateur.allocation.global_ import Global
from secateur.allocation.problem import Amounts, Problem
from secateur.allocation.searching import Searching, scaled, shares_of, whole
from secateur.errors import require

__all__ = ["Bayes"]

FIRST = 10
"""Trials before the model of them proposes any: they depend on nothing, and go at once."""


@ALLOCATIONS.register("bayes")
class Bayes(Searching):
    """Bayesian optimisation of the shares that groups lose, every trial scaled to the budget.

    By the tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) of Optuna (Akiba et
    al. 2019, arXiv:1907.10902). The first two trials are what ``uniform`` and ``global`` choose, so
    the result is never worse than they are. Needs ``pip install 'secateur[search]'``.

    Parameters
    ----------
    trials : int, default 80
        How many models are evaluated at most.

    Raises
    ------
    MissingExtraError
        When Optuna is not installed.
    """

    name = "bayes"

    def __init__(self, trials: int = 80) -> None:
        self.trials = whole(self.name, "trials", trials, 2)

    def amounts(self, problem: Problem) -> Amounts:
        optuna = require("optuna", "search")
        names = [f"{at}" for at, most in enumerate(problem.most) if most]
        values: dict[Amounts, float] = {}
        loudness = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            # Shares act together, through the budget.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = optuna.samplers.TPESampler(
                    n_startup_trials=FIRST, seed=problem.seed, multivariate=True
                )
            study = optuna.create_study(direction="maximize", sampler=sampler)
            even = scaled(problem, np.ones(len(problem.groups)))
            for amounts in (even, Global().amounts(problem)):
                shares = shares_of(problem, amounts)
                study.enqueue_trial({name: float(shares[int(name)]) for name in names})
            first = min(FIRST, self.trials)
            for several in (first, *(1 for _ in range(self.trials - first))):
                asked = {}
                for _ in range(several):
                    trial = study.ask()
                    shares = np.ones(len(problem.groups))
                    for name in names:
                        shares[int(name)] = trial.suggest_float(name, 0.01, 1.0, log=True)
                    asked[trial] = scaled(problem, shares)
                fresh = [each for each in dict.fromkeys(asked.values()) if each not in values]
                values.update(zip(fresh, problem.values(fresh, self.name), strict=True))
                for trial, amounts in asked.items():
                    study.tell(trial, values[amounts])
        finally:
            optuna.logging.set_verbosity(loudness)
        return max(values, key=lambda amounts: values[amounts])
