"""Schedules: how much is zero at which step, and methods that move the zeros while training."""

from __future__ import annotations

from secateur.schedules.admm import ADMM
from secateur.schedules.amounts import (
    AGP,
    ASFP,
    SCHEDULES,
    Iterative,
    Linear,
    MovementCubic,
    OneShot,
    Schedule,
    as_schedule,
)
from secateur.schedules.movement import Movement
from secateur.schedules.moving import DYNAMICS, Dynamic, dynamic_sparsity
from secateur.schedules.network_surgery import NetworkSurgery
from secateur.schedules.rewind import Rewind
from secateur.schedules.soft_filter import SoftFilter
from secateur.schedules.sparse_training import SET, RigL

__all__ = [
    "ADMM",
    "AGP",
    "ASFP",
    "DYNAMICS",
    "SCHEDULES",
    "SET",
    "Dynamic",
    "Iterative",
    "Linear",
    "Movement",
    "MovementCubic",
    "NetworkSurgery",
    "OneShot",
    "Rewind",
    "RigL",
    "Schedule",
    "SoftFilter",
    "as_schedule",
    "dynamic_sparsity",
]
