"""The epochs of one run: everything that moves while a model is trained, and its state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import asdict
from typing import Any, TypeAlias

from torch import nn

from secateur.engines.fingerprint import fingerprint
from secateur.errors import InputError
from secateur.observing.batches import Loss
from secateur.recover.averaging import Average
from secateur.recover.batches import device_of
from secateur.recover.batchnorm import recalibrate_batchnorm
from secateur.recover.checkpoint import Checkpoint, fitting
from secateur.recover.contents import buffers_kept, contents, put_back
from secateur.recover.evaluate import Score, Tally, evaluate_together
from secateur.recover.generators import Generators
from secateur.recover.history import Epoch, History
from secateur.recover.optimizers import Rates
from secateur.recover.rows import alike
from secateur.recover.settings import Settings
from secateur.recover.stepping import Stepper, grouped
from secateur.recover.stopping import Best
from secateur.recover.teaching import Teaching

__all__ = ["Loop", "Progress"]

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called as ``progress(steps done, steps in all, one line about the current state)``."""


class Loop:
    """One run of training, epoch by epoch.

    Parameters
    ----------
    stepper : Stepper
    rates : Rates
    batches : iterable
        Gone through once an epoch.
    loss : callable or None
    validation : iterable or None
    teaching : Teaching or None
    progress : callable or None
    """

    def __init__(
        self,
        stepper: Stepper,
        rates: Rates,
        batches: Iterable[Any],
        loss: Loss | None,
        validation: Iterable[Any] | None,
        teaching: Teaching | None,
        progress: Progress | None,
    ) -> None:
        self.model: nn.Module = stepper.model
        self.settings: Settings = stepper.settings
        self.history = History()
        self._stepper, self._rates, self._teaching = stepper, rates, teaching
        self._batches, self._loss, self._validation = batches, loss, validation
        self._spread = stepper.spread
        self._ranks = self._spread.ranks
        self._progress = progress if self._ranks.leads else None
        self._done = 0
        self._per_epoch = 0
        if isinstance(batches, Sized):
            self._per_epoch = -(-len(batches) // self.settings.accumulate)
        decay, patience = self.settings.ema, self.settings.patience
        self._average = None if decay is None else Average(self.model, decay)
        self._best = None if patience is None else Best(self.model, patience)
        self._generators = Generators([batches, validation], device_of(self.model))

    def run(self, checkpoint: Checkpoint | None) -> History:
        """Train to the end, from the checkpoint's epoch if it has one."""
        if checkpoint is not None and self._begun(checkpoint):
            with self._ranks.joined("reading the checkpoint"):
                self._load(checkpoint.load())
        else:
            self._start(checkpoint)
        while not self._finished:
            self._epoch(len(self.history) + 1)
            self._save(checkpoint)
        self._finish()
        if self._ranks.size > 1:
            self._ranks.same(
                "the trained weights", fingerprint(self.model)[:16],
                "do not change the model in one process alone while it is trained",
            )  # fmt: skip
        return self.history

    def _start(self, checkpoint: Checkpoint | None) -> None:
        """The first epoch; where it fails before its first step, nothing has happened."""
        try:
            with buffers_kept(self.model, unless=lambda: self._done > 0):
                self._recalibrate()
                self._spread.begin()
                self._save(checkpoint)
                self._epoch(1)
        except Exception:
            # What did not fit, a teacher or labels, is part of what a checkpoint is of.
            if checkpoint is not None and self._ranks.leads and not self._done:
                checkpoint.discard()
            raise
        self._save(checkpoint)

    def _begun(self, checkpoint: Checkpoint) -> bool:
        """Whether there is a checkpoint to go on from."""
        there = checkpoint.exists()
        advice = "give all of them one folder that every machine sees"
        self._ranks.same("whether there is a checkpoint", there, advice)
        return there

    @property
    def _finished(self) -> bool:
        exhausted = self._best is not None and self._best.exhausted
        return exhausted or len(self.history) >= self.settings.epochs

    def _epoch(self, number: int) -> None:
        started = time.perf_counter()
        _tell_epoch(self._batches, number - 1)
        tally = Tally()
        batches = alike(self._batches, self._ranks, self.settings.seed + number)
        for group in grouped(batches, self.settings.accumulate):
            self._rates.set(self._position(number))
            self._stepper.step(group, tally)
            if self._average is not None:
                self._average.update()
            self._done += 1
            if self._progress is not None:
                total = max(self._done, self.settings.epochs * self._per_epoch)
                text = f"epoch {number}/{self.settings.epochs}  {tally}"
                self._progress(self._done, total, text)
        if not tally.count:
            raise InputError("no batches to train on; pass at least one training batch")
        self._spread.collect()
        self._per_epoch = self._done // number
        rate = self._rates.first
        score = self._score(number)
        self.history.epochs.append(
            Epoch(
                number=number,
                loss=tally.loss,
                accuracy=tally.accuracy,
                lr=rate,
                seconds=time.perf_counter() - started,
                val_loss=None if score is None else score.loss,
                val_accuracy=None if score is None else score.accuracy,
            )
        )

    def _position(self, number: int) -> float:
        """The fraction of all steps that is done."""
        # Without a length the number of steps is known after the first epoch.
        if not self._per_epoch:
            return (number - 1) / self.settings.epochs
        return self._done / (self.settings.epochs * self._per_epoch)

    def _score(self, number: int) -> Score | None:
        if self._validation is None:
            return None
        with contextlib.nullcontext() if self._average is None else self._average.in_place():
            if self._average is not None:
                # Averaged weights make activations that no batch has counted yet.
                self._recalibrate()
            score = evaluate_together(self.model, self._validation, self._loss, self._ranks)
            if self._best is not None:
                self._best.see(number, score)
        return score

    def _recalibrate(self) -> None:
        count = self.settings.recalibration_batches(self._batches)
        if count:
            with self._ranks.joined("recalibration"):
                recalibrate_batchnorm(self.model, self._batches, max_batches=count)
            self._ranks.follow(self.model.buffers())

    def _save(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            optimizer = self._spread.state_of(self._stepper.engine)
            self._ranks.leading("a checkpoint", lambda: checkpoint.save(self._state(optimizer)))

    def _finish(self) -> None:
        if self._best is not None:
            self._best.restore()
            self.history.best = self._best.epoch
        elif self._average is not None:
            self._average.take()
            if self._validation is None:
                self._recalibrate()

    def _state(self, optimizer: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": contents(self.model),
            "optimizer": optimizer,
            "generators": self._generators.state(),
            "average": None if self._average is None else self._average.state(),
            "best": None if self._best is None else self._best.state(),
            "teaching": None if self._teaching is None else self._teaching.state(),
            "history": [asdict(epoch) for epoch in self.history],
            "done": self._done,
            "per_epoch": self._per_epoch,
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.history.epochs = [Epoch(**epoch) for epoch in state["history"]]
        self._done, self._per_epoch = state["done"], state["per_epoch"]
        self._stepper.steps = self._done
        fitting("model", lambda values: put_back(self.model, values), state["model"])
        self._spread.begin()
        engine = self._stepper.engine
        fitting(
            "optimizer", lambda values: self._spread.load_state(engine, values), state["optimizer"]
        )
        if self._average is not None:
            self._average.load(state["average"])
        if self._best is not None:
            self._best.load(state["best"])
        if self._teaching is not None:
            self._teaching.load(state["teaching"])
        # Last: what was made above may have drawn from them.
        fitting("data", self._generators.load, state["generators"])


def _tell_epoch(batches: Iterable[Any], number: int) -> None:
    """Tell samplers that shuffle by the number of the epoch, counted from 0."""
    for source in (batches, getattr(batches, "sampler", None)):
        if callable(getattr(source, "set_epoch", None)):
            source.set_epoch(number)  # type: ignore[union-attr]
