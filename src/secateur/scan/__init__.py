"""Trying out, one part of a model at a time: what was measured, on disk, and what is left to do."""

from __future__ import annotations

from secateur.scan.evaluation import Evaluation
from secateur.scan.keys import masking, removal
from secateur.scan.ledger import Ledger, fingerprint
from secateur.scan.pace import Pace
from secateur.scan.parts import scan_weights
from secateur.scan.reuse import FromTheMiddle
from secateur.scan.trials import Judge, JudgedCopy, Opaque, Trials

__all__ = [
    "Evaluation",
    "FromTheMiddle",
    "Judge",
    "JudgedCopy",
    "Ledger",
    "Opaque",
    "Pace",
    "Trials",
    "fingerprint",
    "masking",
    "removal",
    "scan_weights",
]
