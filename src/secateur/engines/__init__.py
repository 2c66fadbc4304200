"""Engines: where candidates of a search are evaluated, and what is kept of them."""

from __future__ import annotations

from secateur.engines.base import ENGINES, Engine, Work, Workers, as_engine
from secateur.engines.fingerprint import fingerprint
from secateur.engines.in_process import InProcess
from secateur.engines.journal import Journal
from secateur.engines.on_ray import OnRay
from secateur.engines.processes import Processes

__all__ = [
    "ENGINES",
    "Engine",
    "InProcess",
    "Journal",
    "OnRay",
    "Processes",
    "Work",
    "Workers",
    "as_engine",
    "fingerprint",
]
