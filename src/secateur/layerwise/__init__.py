"""Layer-wise methods: what one layer computes is all that they look at."""

from secateur.layerwise.greedy import inputs_by_error, removal_costs
from secateur.layerwise.lasso import vanishing_penalties
from secateur.layerwise.reconstruct import Refit, Solver, reconstruct
from secateur.layerwise.solve import (
    contributions,
    damped,
    factored,
    inverse,
    inverse_factor,
    refit_scales,
    refit_weights,
)
from secateur.layerwise.survivors import Survivors
from secateur.layerwise.sweep import Amount, sweep, swept

__all__ = [
    "Amount",
    "Refit",
    "Solver",
    "Survivors",
    "contributions",
    "damped",
    "factored",
    "inputs_by_error",
    "inverse",
    "inverse_factor",
    "reconstruct",
    "refit_scales",
    "refit_weights",
    "removal_costs",
    "sweep",
    "swept",
    "vanishing_penalties",
]
