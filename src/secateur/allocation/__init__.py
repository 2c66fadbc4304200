"""Allocations: from scores to the order in which units go, and so to each group's share."""

from __future__ import annotations

from secateur.allocation.amc import AMC
from secateur.allocation.base import ALLOCATIONS, Allocation, as_allocation
from secateur.allocation.bayes import Bayes
from secateur.allocation.curves import Curve, Sensitivity, checked_ratios
from secateur.allocation.densities import ERK, UniformPlus
from secateur.allocation.evolution import Evolution
from secateur.allocation.global_ import Global
from secateur.allocation.groups import GroupScores, judged_order
from secateur.allocation.isomorphic import Isomorphic
from secateur.allocation.knapsack import Knapsack
from secateur.allocation.lamp import LAMP
from secateur.allocation.netadapt import NetAdapt
from secateur.allocation.problem import Amounts, Problem, no_evaluate
from secateur.allocation.sensitivity import SensitivityScan, scan
from secateur.allocation.uniform import Uniform

__all__ = [
    "ALLOCATIONS",
    "AMC",
    "ERK",
    "LAMP",
    "Allocation",
    "Amounts",
    "Bayes",
    "Curve",
    "Evolution",
    "Global",
    "GroupScores",
    "Isomorphic",
    "Knapsack",
    "NetAdapt",
    "Problem",
    "Sensitivity",
    "SensitivityScan",
    "Uniform",
    "UniformPlus",
    "as_allocation",
    "checked_ratios",
    "judged_order",
    "no_evaluate",
    "scan",
]
