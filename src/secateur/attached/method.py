"""What follows a model through its training: attached once, counted, saved, and finished."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur.errors import InputError
from secateur.specs import Spelled

__all__ = ["Method"]


class Method(Spelled, ABC):
    """Base of regularizers and dynamic methods.

    Attributes
    ----------
    model : nn.Module
        Once it is attached.
    steps_done : int
        How many training steps it has followed.
    skipped : list of (str, str)
        Weights it leaves alone, and why.
    """

    model: nn.Module
    steps_done: int
    skipped: list[tuple[str, str]]

    def count_from_zero(self) -> None:
        """Begin; once only.

        Raises
        ------
        InputError
            When it is attached already.
        """
        if hasattr(self, "model"):
            raise InputError(f"this {self.name!r} is attached already; make one for each model")
        self.steps_done, self.skipped = 0, []

    def finish(self) -> None:
        """Leave a model of plain weights, with the names that it had."""

    def parameters(self) -> list[nn.Parameter]:
        """What this method trains beside the model's own, for the optimizer to take in."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on after an interruption, apart from the model's own state."""
        return {"name": self.name, "steps": self.steps_done, **self.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises
        ------
        InputError
            When it belongs to another method.
        """
        if state.get("name") != self.name:
            raise InputError(f"this state is of {state.get('name')!r}, not of {self.name!r}")
        self.steps_done = int(state["steps"])
        self.load(state)

    def state(self) -> dict[str, Any]:
        """What a subclass has to keep."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
