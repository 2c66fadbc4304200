"""How good a model is on labelled data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import nn

from secateur.errors import InputError
from secateur.inputs import evaluating
from secateur.observing.batches import Loss, default_loss
from secateur.ranks import ALONE, Ranks
from secateur.recover.batches import count_hits, device_of, examples_in, forward
from secateur.recover.rows import own_rows

__all__ = ["Score", "Tally", "accuracy", "counted", "evaluate", "evaluate_together"]


@dataclasses.dataclass(frozen=True)
class Score:
    """What `evaluate` measured.

    Parameters
    ----------
    loss : float
        Mean loss over the examples.
    accuracy : float or None
        Fraction of the labels, 0 to 1, whose class has the highest score; None where the
        labels are not class indices.
    count : int
        Number of examples.
    """

    loss: float
    accuracy: float | None
    count: int


class Tally:
    """Sums of loss and hits over batches of different sizes.

    Examples
    --------
    >>> import torch
    >>> tally = Tally()
    >>> tally.add(0.5, torch.eye(2), torch.tensor([0, 0]))
    >>> print(tally)
    loss 0.500  accuracy 50.0 %
    """

    def __init__(self) -> None:
        self.count = 0
        self._loss = 0.0
        self._hits = 0
        self._labels = 0

    def add(self, loss: float, output: Any, targets: Any) -> None:
        """Add one batch: its mean loss, the model's output and the targets."""
        self.include(counted(loss, output, targets))

    def include(self, counts: list[float]) -> None:
        """Add what `counted` counted."""
        self._loss += counts[0]
        self.count += int(counts[1])
        self._hits += int(counts[2])
        self._labels += int(counts[3])

    @property
    def counts(self) -> list[float]:
        """Everything so far, as `counted` gives it."""
        return [self._loss, self.count, self._hits, self._labels]

    @property
    def loss(self) -> float:
        """Mean loss over the examples."""
        return self._loss / self.count

    @property
    def accuracy(self) -> float | None:
        """Fraction of hits, or None without class labels."""
        return self._hits / self._labels if self._labels else None

    def __str__(self) -> str:
        hits = "" if self.accuracy is None else f"  accuracy {100 * self.accuracy:.1f} %"
        return f"loss {self.loss:.3f}{hits}"


def counted(loss: float, output: Any, targets: Any) -> list[float]:
    """What counts of a batch: sum of the loss, examples, hits, labels.

    Examples
    --------
    >>> import torch
    >>> counted(0.5, torch.eye(2), torch.tensor([0, 0]))
    [1.0, 2, 1, 2]
    """
    size = examples_in(targets)
    return [loss * size, size, *count_hits(output, targets)]


def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None = None,
) -> Score:
    """Measure loss and accuracy in eval mode, without gradients.

    Parameters
    ----------
    model : torch.nn.Module
        Gives class scores ``[n, classes, ...]``. Every module's training mode is restored.
    batches : iterable
        Pairs ``(inputs, targets)``, or dicts of keyword inputs, ``"labels"`` among them, as
        Hugging Face models take them. They are moved to the model's device.
    loss : callable, optional
        ``loss(output, targets)``, a mean over the batch. By default the output's own ``.loss``
        for a dict, else cross-entropy.

    Raises
    ------
    InputError
        When there are no batches, a batch is neither a pair nor a dict, the model rejects one,
        or there is no default loss for its outputs.

    Examples
    --------
    >>> import torch
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.eye(2)), model.bias.zero_()
    >>> evaluate(model, [(torch.eye(2), torch.tensor([0, 0]))]).accuracy
    0.5
    """
    return evaluate_together(model, batches, loss, ALONE)


def evaluate_together(
    model: nn.Module, batches: Iterable[Any], loss: Loss | None, ranks: Ranks
) -> Score:
    """As `evaluate`, with every process measuring its rows of each batch."""
    criterion = default_loss if loss is None else loss
    tally = Tally()
    with evaluating(model), ranks.joined("evaluation"):
        for inputs, targets in own_rows(batches, device_of(model), ranks):
            output = forward(model, inputs)
            tally.add(float(criterion(output, targets)), output, targets)
    total = Tally()
    total.include(ranks.sums(tally.counts))
    if not total.count:
        raise InputError("no batches to evaluate on; an exhausted generator yields none twice")
    return Score(total.loss, total.accuracy, total.count)


def accuracy(model: nn.Module, batches: Iterable[Any]) -> float:
    """Fraction of correctly classified examples, 0 to 1; see `evaluate`.

    Raises
    ------
    InputError
        When the labels are not class indices, and where `evaluate` raises.

    Examples
    --------
    >>> import torch
    >>> accuracy(nn.Identity(), [(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
    0.75
    """
    value = evaluate(model, batches).accuracy
    if value is None:
        raise InputError(
            "accuracy needs class scores [n, classes, ...] and integer labels [n, ...]"
        )
    return value
