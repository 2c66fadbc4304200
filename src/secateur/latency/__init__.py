"""Latency by operation: measured in the runtime that will be used, and looked up while pruning."""

from __future__ import annotations

from secateur.latency.check import LatencyCheck, check_latency
from secateur.latency.operations import Operation
from secateur.latency.runtimes import RUNTIMES, as_runtime
from secateur.latency.stairs import fast_sizes
from secateur.latency.table import LatencyTable

__all__ = [
    "RUNTIMES",
    "LatencyCheck",
    "LatencyTable",
    "Operation",
    "as_runtime",
    "check_latency",
    "fast_sizes",
]
