"""Winning accuracy back after pruning, and measuring it."""

from __future__ import annotations

import sys
from types import ModuleType

from secateur.recover.batchnorm import recalibrate_batchnorm
from secateur.recover.distillation import Distillation
from secateur.recover.evaluate import Score, accuracy, evaluate
from secateur.recover.history import Epoch, History
from secateur.recover.loop import Progress
from secateur.recover.reconstructing import reconstruct
from secateur.recover.training import recover

__all__ = [
    "Distillation",
    "Epoch",
    "History",
    "Progress",
    "Score",
    "accuracy",
    "evaluate",
    "recalibrate_batchnorm",
    "reconstruct",
    "recover",
]


class _CallableModule(ModuleType):
    __call__ = staticmethod(recover)


# Importing this package binds it to `secateur.recover`, where users find the function.
sys.modules[__name__].__class__ = _CallableModule
