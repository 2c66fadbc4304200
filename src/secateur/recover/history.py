"""What training went through, epoch by epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

__all__ = ["Epoch", "History"]


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch of `recover`.

    Parameters
    ----------
    number : int
        Counted from 1.
    loss : float
        Mean training loss over the epoch's examples, as the weights moved; with a teacher, of
        everything that is minimised.
    accuracy : float or None
        Training accuracy, 0 to 1, measured in the same passes; None without class labels.
    lr : float
        Learning rate of the epoch's last step.
    seconds : float
        Time spent, evaluation included.
    val_loss, val_accuracy : float or None
        The same on the validation batches in eval mode, where they were passed; with ``ema``, of
        the averaged weights.
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

    Attributes
    ----------
    epochs : list of Epoch
    best : int or None
        Number of the epoch whose weights the model was given back, with ``patience``; None for
        the last.

    Examples
    --------
    >>> history = History([Epoch(1, 0.5, 0.8, 0.1, 2.0)])
    >>> history.to_dict()["epochs"][0]["loss"]
    0.5
    """

    epochs: list[Epoch] = dataclasses.field(default_factory=list)
    best: int | None = None

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    def __getitem__(self, index: int) -> Epoch:
        return self.epochs[index]

    def to_dict(self) -> dict[str, Any]:
        """The history in JSON values."""
        return dataclasses.asdict(self)
