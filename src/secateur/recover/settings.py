"""How a model is to be trained: every number of `recover`, checked at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from secateur.errors import InputError, UnknownNameError, suggestion

__all__ = ["RECALIBRATION_BATCHES", "Settings"]

SCHEDULES = ("cosine", "constant")

# A mean over so many batches is known to a few per cent of what one batch's varies by.
RECALIBRATION_BATCHES = 50


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one run of `recover`, which says what each of them means.

    Raises
    ------
    InputError, UnknownNameError
        For a value that cannot be meant.
    """

    epochs: int
    lr: float
    optimizer: str | torch.optim.Optimizer
    momentum: float
    weight_decay: float
    schedule: str
    warmup: float
    clip_norm: float | None
    accumulate: int
    recalibrate: bool | int
    ema: float | None
    patience: int | None
    autocast: bool
    channels_last: bool
    seed: int

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr must be a positive number, not {self.lr}")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is a fraction of the steps, 0 to 1, not {self.warmup}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm must be a positive number, not {self.clip_norm}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema is a decay between 0 and 1, such as 0.999, not {self.ema}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience must be at least 1 epoch, not {self.patience}")
        if not isinstance(self.recalibrate, bool) and self.recalibrate < 1:
            raise InputError(
                f"recalibrate is True, False or a number of batches, not {self.recalibrate}"
            )
        if self.schedule not in SCHEDULES:
            raise UnknownNameError(
                f"unknown schedule {self.schedule!r}{suggestion(self.schedule, SCHEDULES)}"
            )

    def check_batches(self, batches: Iterable[Any], validation: Iterable[Any] | None) -> None:
        """Refuse data that cannot be gone through as often as these settings ask for.

        Raises
        ------
        InputError
        """
        if isinstance(batches, Iterator):
            if self.epochs > 1:
                raise InputError(
                    "train_batches is a generator, which can be gone through only once; "
                    "pass a list or a DataLoader to train for several epochs"
                )
            if self.recalibrate is not False and self.recalibrate is not True:
                raise InputError(
                    "train_batches is a generator, which can be gone through only once; "
                    "pass a list or a DataLoader, or recalibrate=False"
                )
        if self.patience is not None and validation is None:
            raise InputError("patience needs validation=, batches that are kept out of training")

    def recalibration_batches(self, batches: Iterable[Any]) -> int:
        """How many batches the statistics of batch norms are taken from; 0 for not at all."""
        if self.recalibrate is False or isinstance(batches, Iterator):
            return 0
        return RECALIBRATION_BATCHES if self.recalibrate is True else int(self.recalibrate)

    def described(self) -> dict[str, Any]:
        """The settings in JSON values; an optimizer by its class and what its groups say."""
        described = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "optimizer"
        }
        engine = self.optimizer
        if isinstance(engine, str):
            return {**described, "optimizer": engine}
        groups = [
            {key: repr(value) for key, value in group.items() if key != "params"}
            for group in engine.param_groups
        ]
        # What an optimizer of one's own makes of them is not looked at.
        for unused in ("lr", "momentum", "weight_decay"):
            del described[unused]
        return {**described, "optimizer": type(engine).__name__, "optimizer groups": groups}
