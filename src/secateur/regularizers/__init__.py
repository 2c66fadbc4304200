"""Regularizers: terms and maps that train towards sparsity, in the user's own loop."""

from __future__ import annotations

from secateur.regularizers.base import REGULARIZERS, Regularizer, regularizer
from secateur.regularizers.greg import GReg1, GReg2
from secateur.regularizers.group_lasso import GroupLasso
from secateur.regularizers.norms import L1, L2
from secateur.regularizers.polarization import Polarization
from secateur.regularizers.slimming import Slimming

__all__ = [
    "L1",
    "L2",
    "REGULARIZERS",
    "GReg1",
    "GReg2",
    "GroupLasso",
    "Polarization",
    "Regularizer",
    "Slimming",
    "regularizer",
]
