"""What a model costs: multiply-accumulates, parameters, bytes and measured latency."""

from __future__ import annotations

from secateur.profiling.latency import Timing, compare, interleave
from secateur.profiling.macs import node_macs
from secateur.profiling.profile import LayerProfile, Profile, profile
from secateur.profiling.stored import Storage, StoredTensor, storage_of

__all__ = [
    "LayerProfile",
    "Profile",
    "Storage",
    "StoredTensor",
    "Timing",
    "compare",
    "interleave",
    "node_macs",
    "profile",
    "storage_of",
]
