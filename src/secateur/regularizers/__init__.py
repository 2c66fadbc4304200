"""Regularizers: terms and maps that train towards sparsity, in the user's own loop."""

from __future__ import annotations

from secateur.regularizers.base import REGULARIZERS, Regularizer, regularizer
from secateur.regularizers.greg import GReg1, GReg2
from secateur.regularizers.group_lasso import GroupLasso
from secateur.regularizers.group_sparsity import GroupSparsity
from secateur.regularizers.l0 import L0
from secateur.regularizers.norms import L1, L2
from secateur.regularizers.oto import OTO
from secateur.regularizers.polarization import Polarization
from secateur.regularizers.scaling import Scaling
from secateur.regularizers.slimming import Slimming
from secateur.regularizers.sr_ste import SRSTE
from secateur.regularizers.stripe import Stripe

__all__ = [
    "L0",
    "L1",
    "L2",
    "OTO",
    "REGULARIZERS",
    "SRSTE",
    "GReg1",
    "GReg2",
    "GroupLasso",
    "GroupSparsity",
    "Polarization",
    "Regularizer",
    "Scaling",
    "Slimming",
    "Stripe",
    "regularizer",
]
