"""What is held on to a model while it trains: weights, cut into units, and what computes them."""

from __future__ import annotations

from secateur.attached.chosen import lowest
from secateur.attached.computed import Computed, compute_weights
from secateur.attached.gradients import add_to_gradient
from secateur.attached.method import Method
from secateur.attached.targets import Target, find_targets
from secateur.attached.units import as_units

__all__ = [
    "Computed",
    "Method",
    "Target",
    "add_to_gradient",
    "as_units",
    "compute_weights",
    "find_targets",
    "lowest",
]
