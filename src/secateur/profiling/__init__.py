"""What a model costs: multiply-accumulates, parameters, bytes and measured latency."""

from __future__ import annotations

from secateur.profiling.latency import Timing, compare, interleave
from secateur.profiling.macs import node_macs
from secateur.profiling.profile import LayerProfile, Profile, profile

__all__ = [
    "LayerProfile",
    "Profile",
    "Timing",
    "compare",
    "interleave",
    "node_macs",
    "profile",
]
