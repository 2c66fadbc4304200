"""Winning accuracy back after pruning, and measuring it."""

from __future__ import annotations

from secateur.recover.batchnorm import recalibrate_batchnorm
from secateur.recover.evaluate import Score, accuracy, evaluate
from secateur.recover.training import Epoch, History, Progress, recover

__all__ = [
    "Epoch",
    "History",
    "Progress",
    "Score",
    "accuracy",
    "evaluate",
    "recalibrate_batchnorm",
    "recover",
]
