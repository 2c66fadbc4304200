"""Accuracy in, ratio out: the smallest model whose measure drops by no more than is allowed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

from torch import nn

from secateur.candidates import Candidates, Trial, measured
from secateur.choose import ByBudget, Choice, Task
from secateur.errors import InputError
from secateur.inputs import Inputs
from secateur.request import Request

__all__ = ["WithinDrop", "smallest"]

RESOLUTION = 1 / 128
"""Of the MACs of the dense model: how finely the search ends."""

BEYOND = (1, 2, 4, 8, 16)
"""Steps below the smallest found that are tried too, for the measure falls only roughly."""


class WithinDrop(ByBudget):
    """Chooses the smallest model, by MACs, that is within a drop of what the dense one achieves.

    The allocation decides at every fraction of the MACs that is tried; the pruned copy is measured.
    Bisection, as though the measure fell with the fraction, finds where the drop is passed. As it
    does so only roughly, a few smaller fractions are tried after; what is taken was measured.

    Raises
    ------
    InputError
        Without `evaluate`, and where the dense model, measured twice, differs by more than the
        drop: no pruned model can be told from it then.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, request: Request) -> None:
        if request.evaluate is None:
            raise InputError(
                "a budget of accuracy_drop needs evaluate=, a function from a model to a number, "
                "higher is better, such as accuracy on a split kept for it"
            )
        super().__init__(model, inputs, request)
        self.evaluate = request.evaluate
        self.drop = request.budget["accuracy_drop"]
        self.dense = self._measured_dense()
        again = self._measured_dense()
        if abs(self.dense - again) > self.drop:
            raise _unsteady(self.dense, again, self.drop)

    def _measured_dense(self) -> float:
        return measured(self.evaluate, copy.deepcopy(self.model).eval(), self.request.seed)

    def chosen(self, task: Task) -> Choice:
        # What is given back is not tuned, so what is measured is not either.
        plain = Candidates(Trial(self.model, self.evaluate, self.request.seed))
        known: dict[float, tuple[Choice, float]] = {}

        def holds(fraction: float) -> bool:
            """Whether the model of this fraction of the MACs is within the drop."""
            if fraction not in known:
                choice = task.choice({"macs": fraction})
                [value] = plain.values([task.planner(choice.selection.removed)])
                known[fraction] = choice, value
            return self.dense - known[fraction][1] <= self.drop + 1e-9

        if not holds(1.0):
            raise _unsteady(self.dense, known[1.0][1], self.drop)
        base = max(task.base["macs"], 1)
        least = task.costs(task.choice(None).selection.removed)["macs"]
        choice, pruned = known[smallest(holds, min((least + 0.5) / base, 1.0))]
        found = {
            "dense": self.dense,
            "pruned": pruned,
            "drop": self.dense - pruned,
            "macs": task.costs(choice.selection.removed)["macs"] / base,
        }
        return dataclasses.replace(choice, settings={"measured": found})


def smallest(holds: Callable[[float], bool], least: float) -> float:
    """About the smallest fraction that holds, none below `least`; 1 is known to.

    Examples
    --------
    >>> round(smallest(lambda fraction: fraction > 0.3, least=0.1), 2)
    0.3
    >>> round(smallest(lambda fraction: fraction > 0.3 or 0.26 < fraction < 0.28, least=0.1), 2)
    0.26
    """
    if holds(least):
        return least
    low, high = least, 1.0
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    while True:
        below = [high - step * RESOLUTION for step in BEYOND]
        found = [fraction for fraction in below if fraction > least and holds(fraction)]
        if not found:
            return high
        high = min(found)


def _unsteady(first: float, second: float, drop: float) -> InputError:
    return InputError(
        f"evaluate is not deterministic: the dense model got {first:g} and then {second:g}, which "
        f"differ by more than the accuracy_drop of {drop:g}; evaluate on the same data every time"
    )
