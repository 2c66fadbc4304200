"""Allocations: from scores to the order in which units go, and so to each group's share."""

from __future__ import annotations

from secateur.allocation.amc import AMC
from secateur.allocation.base import ALLOCATIONS, Allocation, as_allocation
from secateur.allocation.densities import ERK, UniformPlus
from secateur.allocation.global_ import Global
from secateur.allocation.groups import GroupScores, judged_order
from secateur.allocation.lamp import LAMP
from secateur.allocation.problem import Amounts, Problem
from secateur.allocation.uniform import Uniform

__all__ = [
    "ALLOCATIONS",
    "AMC",
    "ERK",
    "LAMP",
    "Allocation",
    "Amounts",
    "Global",
    "GroupScores",
    "Problem",
    "Uniform",
    "UniformPlus",
    "as_allocation",
    "judged_order",
]
