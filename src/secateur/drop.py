"""Accuracy in, ratio out: the smallest model whose measure drops by no more than is allowed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence

from torch import nn

from secateur.candidates import Candidates, Trial, measured
from secateur.choose import ByBudget, Choice, Task
from secateur.errors import InputError
from secateur.inputs import Inputs
from secateur.request import TRYING, Request

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
        known: dict[float, tuple[Choice, float]] = {}
        plain = self._plain()

        def hold(fractions: Sequence[float]) -> list[bool]:
            """Whether the models of these fractions of the MACs are within the drop."""
            fresh = [fraction for fraction in fractions if fraction not in known]
            choices = [task.choice({"macs": fraction}) for fraction in fresh]
            values = plain.values([task.planner(each.selection.removed) for each in choices])
            known.update(zip(fresh, zip(choices, values, strict=True), strict=True))
            return [self.dense - known[each][1] <= self.drop + 1e-9 for each in fractions]

        with plain:
            if not all(hold([1.0])):
                raise _unsteady(self.dense, known[1.0][1], self.drop)
            base = max(task.base["macs"], 1)
            least = task.costs(task.choice(None).selection.removed)["macs"]
            choice, pruned = known[smallest(hold, min((least + 0.5) / base, 1.0))]
        found = {
            "dense": self.dense,
            "pruned": pruned,
            "drop": self.dense - pruned,
            "macs": task.costs(choice.selection.removed)["macs"] / base,
        }
        return dataclasses.replace(choice, settings={"measured": found})

    def _plain(self) -> Candidates:
        """Tries models out as they are given back: without tuning."""
        request, searched = self.request, self.candidates
        assert searched is not None
        if searched.trial.tune is None:
            return searched
        trial = Trial(self.model, self.evaluate, request.seed)
        return Candidates(trial, request.engine, told=request.told(TRYING))


def smallest(hold: Callable[[Sequence[float]], list[bool]], least: float) -> float:
    """About the smallest fraction that holds, none below `least`; 1 is known to.

    Bisection asks for one fraction at a time, on every engine: more at once would end elsewhere.

    Examples
    --------
    >>> round(smallest(lambda fractions: [each > 0.3 for each in fractions], least=0.1), 2)
    0.3
    >>> def bumpy(fractions):
    ...     return [each > 0.3 or 0.26 < each < 0.28 for each in fractions]
    >>> round(smallest(bumpy, least=0.1), 2)
    0.26
    """
    if all(hold([least])):
        return least
    low, high = least, 1.0
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        low, high = (low, middle) if all(hold([middle])) else (middle, high)
    while True:
        steps = (high - step * RESOLUTION for step in BEYOND)
        below = [fraction for fraction in steps if fraction > least]
        found = [fraction for fraction, held in zip(below, hold(below), strict=True) if held]
        if not found:
            return high
        high = min(found)


def _unsteady(first: float, second: float, drop: float) -> InputError:
    return InputError(
        f"evaluate is not deterministic: the dense model got {first:g} and then {second:g}, which "
        f"differ by more than the accuracy_drop of {drop:g}; evaluate on the same data every time"
    )
