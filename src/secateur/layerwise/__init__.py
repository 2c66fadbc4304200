"""Layer-wise methods: what one layer computes is all that they look at."""

from secateur.layerwise.reconstruct import Refit, reconstruct
from secateur.layerwise.solve import (
    contributions,
    damped,
    inverse,
    refit_scales,
    refit_weights,
)
from secateur.layerwise.sweep import Amount, sweep

__all__ = [
    "Amount",
    "Refit",
    "contributions",
    "damped",
    "inverse",
    "reconstruct",
    "refit_scales",
    "refit_weights",
    "sweep",
]
