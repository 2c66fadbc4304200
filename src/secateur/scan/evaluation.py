"""A measure of quality that knows its batches, so that they need not run from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from secateur.errors import InputError
from secateur.inputs import evaluating
from secateur.recover.batches import count_hits, examples_in, predict

__all__ = ["Evaluation"]


class Evaluation:
    """Accuracy, or another mean over examples, on batches of its own.

    It is a function from a model to a number like any other that ``evaluate=`` takes, and is
    faster in :func:`secateur.sensitivity`, which runs its batches only from where a copy differs
    from the dense model.

    Parameters
    ----------
    batches : iterable
        Pairs ``(inputs, targets)``, or dicts of keyword inputs with ``"labels"`` among them. They
        are read once and kept.
    metric : callable, optional
        ``metric(output, targets) -> float``, a mean over the batch, higher is better; by default
        the fraction of labels whose class has the highest score.

    Raises
    ------
    InputError
        When there are no batches.

    Examples
    --------
    >>> import torch
    >>> Evaluation([(torch.eye(4), torch.tensor([0, 1, 2, 0]))])(nn.Identity())
    0.75
    >>> def closeness(output, targets):
    ...     return -float((output - targets).square().mean())
    >>> Evaluation([(torch.ones(2, 3), torch.zeros(2, 3))], closeness)(nn.Identity())
    -1.0
    """

    def __init__(
        self, batches: Iterable[Any], metric: Callable[[Any, Any], float] | None = None
    ) -> None:
        self.batches, self.metric = list(batches), metric
        if not self.batches:
            raise InputError("no batches to evaluate on; an exhausted generator yields none twice")

    def __call__(self, model: nn.Module) -> float:
        """How good the model is, in eval mode and without gradients."""

        def outputs() -> Iterator[tuple[Any, Any]]:
            for batch in self.batches:
                yield predict(model, batch)

        with evaluating(model):
            return self.over(outputs())

    def over(self, outputs: Iterable[tuple[Any, Any]]) -> float:
        """The measure of outputs, each with its batch's targets."""
        total, count = 0.0, 0
        for output, targets in outputs:
            if self.metric is None:
                hits, labels = count_hits(output, targets)
                if not labels:
                    raise InputError(
                        "accuracy needs class scores [n, classes, ...] and integer labels "
                        "[n, ...]; pass metric=f(output, targets) for anything else"
                    )
                total, count = total + hits, count + labels
            else:
                examples = examples_in(targets)
                total += float(self.metric(output, targets)) * examples
                count += examples
        return total / count
