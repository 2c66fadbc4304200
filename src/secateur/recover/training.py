"""Winning the accuracy back: a plain training loop."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.observing.batches import Loss, batch_loss
from secateur.recover.batches import device_of, predict
from secateur.recover.evaluate import Tally, evaluate

__all__ = ["Epoch", "History", "Progress", "recover"]

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called as ``progress(steps done, steps in all, one line about the current state)``."""

_OPTIMIZERS = ("sgd", "adamw")
_SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch of `recover`.

    Parameters
    ----------
    number : int
        Counted from 1.
    loss : float
        Mean training loss over the epoch's examples, as the weights moved.
    accuracy : float or None
        Training accuracy, 0 to 1, measured in the same passes; None without class labels.
    lr : float
        Learning rate of the epoch's last step.
    seconds : float
        Time spent, evaluation included.
    val_loss, val_accuracy : float or None
        The same on the validation batches in eval mode, where they were passed.
    """

    number: int
    loss: float
    accuracy: float | None
    lr: float
    seconds: float
    val_loss: float | None = None
    val_accuracy: float | None = None


@dataclasses.dataclass
class History:
    """The epochs of one or several runs of `recover`.

    Examples
    --------
    >>> history = History([Epoch(1, 0.5, 0.8, 0.1, 2.0)])
    >>> history.to_dict()["epochs"][0]["loss"]
    0.5
    """

    epochs: list[Epoch] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    def __getitem__(self, index: int) -> Epoch:
        return self.epochs[index]

    def to_dict(self) -> dict[str, Any]:
        """The history in JSON values."""
        return dataclasses.asdict(self)


def recover(
    model: nn.Module,
    train_batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    epochs: int = 10,
    lr: float = 0.01,
    optimizer: str | torch.optim.Optimizer = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "cosine",
    warmup: float = 0.0,
    clip_norm: float | None = None,
    validation: Iterable[Any] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> History:
    """Train a model in place.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place; only parameters with ``requires_grad`` move. It runs in training mode
        and every module's mode is restored at the end. Gradients are cleared.
    train_batches : iterable
        Gone through once an epoch, so it must be re-iterable (a list, a `DataLoader`,
        `secateur.data.Batches`). Pairs ``(inputs, targets)``, or dicts of keyword inputs,
        ``"labels"`` among them. They are moved to the model's device.
    loss : callable, optional
        ``loss(output, targets)``, a mean over the batch. By default the output's own ``.loss``
        for a dict, else cross-entropy.
    epochs : int
        Passes over the batches.
    lr : float
        Peak learning rate. Fine-tuning commonly takes a tenth to a hundredth of the rate of
        the original training (Han et al. 2015).
    optimizer : {"sgd", "adamw"} or torch.optim.Optimizer
        SGD with Nesterov momentum, AdamW, or an optimizer of your own, used as it is but for
        the schedule; then ``lr``, ``momentum`` and ``weight_decay`` are not looked at.
    momentum : float
        Of SGD.
    weight_decay : float
        For weights of two and more dimensions: biases and norms are not decayed.
    schedule : {"cosine", "constant"}
        Cosine annealing to zero over all steps (Loshchilov and Hutter 2017), or none.
    warmup : float
        Fraction of all steps in which the rate rises linearly to its peak, 0 to 1.
    clip_norm : float, optional
        Largest total gradient norm.
    validation : iterable, optional
        Batches to evaluate on after every epoch.
    progress : callable, optional
        ``progress(done, total, text)`` after every step.
    seed : int
        Seed of PyTorch's generators inside (dropout); their state outside is restored.

    Returns
    -------
    History
        Loss, accuracy, learning rate and time of every epoch.

    Raises
    ------
    InputError
        When nothing can be trained, there are no batches, an argument is out of range, the
        model rejects a batch, or the loss is not finite.
    UnknownNameError
        For an unknown optimizer or schedule.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> inputs = torch.randn(64, 2)
    >>> batches = [(inputs, (inputs[:, 0] > 0).long())]
    >>> history = recover(nn.Linear(2, 2), batches, epochs=30, lr=0.5)
    >>> history[-1].accuracy > 0.95
    True
    """
    _check(train_batches, epochs, lr, warmup, schedule)
    engine = _optimizer(model, optimizer, lr, momentum, weight_decay)
    peaks = [group["lr"] for group in engine.param_groups]
    history = History()
    per_epoch = len(train_batches) if isinstance(train_batches, Sized) else 0
    done = 0
    with _training(model, seed):
        for number in range(1, epochs + 1):
            started = time.perf_counter()
            tally = Tally()
            factor = 1.0
            for batch in train_batches:
                # Without a length the number of steps is known after the first epoch.
                at = done / (epochs * per_epoch) if per_epoch else (number - 1) / epochs
                factor = _factor(schedule, at, warmup)
                for group, peak in zip(engine.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
                _step(model, batch, loss, engine, clip_norm, tally)
                done += 1
                if progress is not None:
                    total = max(done, epochs * per_epoch)
                    progress(done, total, f"epoch {number}/{epochs}  {tally}")
            if not tally.count:
                raise InputError("no batches to train on; pass at least one training batch")
            per_epoch = done // number
            score = None if validation is None else evaluate(model, validation, loss)
            history.epochs.append(
                Epoch(
                    number=number,
                    loss=tally.loss,
                    accuracy=tally.accuracy,
                    lr=peaks[0] * factor,
                    seconds=time.perf_counter() - started,
                    val_loss=None if score is None else score.loss,
                    val_accuracy=None if score is None else score.accuracy,
                )
            )
    for group, peak in zip(engine.param_groups, peaks, strict=True):
        group["lr"] = peak
    engine.zero_grad(set_to_none=True)
    return history


def _check(
    train_batches: Iterable[Any], epochs: int, lr: float, warmup: float, schedule: str
) -> None:
    """Refuse arguments that cannot be meant."""
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, not {epochs}")
    if not (math.isfinite(lr) and lr > 0):
        raise InputError(f"lr must be a positive number, not {lr}")
    if not 0 <= warmup <= 1:
        raise InputError(f"warmup is a fraction of the steps, 0 to 1, not {warmup}")
    if schedule not in _SCHEDULES:
        raise UnknownNameError(f"unknown schedule {schedule!r}{suggestion(schedule, _SCHEDULES)}")
    if epochs > 1 and isinstance(train_batches, Iterator):
        raise InputError(
            "train_batches is a generator, which can be gone through only once; "
            "pass a list or a DataLoader to train for several epochs"
        )


def _optimizer(
    model: nn.Module,
    optimizer: str | torch.optim.Optimizer,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimizer, with biases and norms left out of the weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("no parameter of the model has requires_grad; there is nothing to train")
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    raise UnknownNameError(f"unknown optimizer {optimizer!r}{suggestion(optimizer, _OPTIMIZERS)}")


def _factor(schedule: str, at: float, warmup: float) -> float:
    """The learning rate as a fraction of its peak, ``at`` this fraction of all steps."""
    if at < warmup:
        # Half-open steps: the first step must not have rate 0, which would waste it.
        return max(at / warmup, 0.01)
    if schedule == "constant" or warmup >= 1:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (at - warmup) / (1.0 - warmup)))


def _step(
    model: nn.Module,
    batch: Any,
    loss: Loss | None,
    engine: torch.optim.Optimizer,
    clip_norm: float | None,
    tally: Tally,
) -> None:
    """One optimizer step on one batch."""
    engine.zero_grad(set_to_none=True)
    output, targets = predict(model, batch)
    value = batch_loss(output, targets, loss)
    if not bool(torch.isfinite(value.detach())):
        raise InputError(
            f"the training loss is {float(value.detach())}: lower lr, set clip_norm, "
            "or look for NaN in the data or weights"
        )
    value.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    engine.step()
    tally.add(float(value.detach()), output, targets)


@contextmanager
def _training(model: nn.Module, seed: int) -> Iterator[None]:
    """Training mode with gradients and seeded generators; all three restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    device = device_of(model)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(seed)
            model.train()
            yield
    finally:
        for module, training in modes:
            module.training = training
