"""Allocations: from scores to the order in which units go, and so to each group's share."""

from __future__ import annotations

from secateur.allocation.base import ALLOCATIONS, Allocation, GroupScores, as_allocation
from secateur.allocation.densities import ERK, UniformPlus
from secateur.allocation.global_ import Global
from secateur.allocation.lamp import LAMP
from secateur.allocation.uniform import Uniform

__all__ = [
    "ALLOCATIONS",
    "ERK",
    "LAMP",
    "Allocation",
    "Global",
    "GroupScores",
    "Uniform",
    "UniformPlus",
    "as_allocation",
]
