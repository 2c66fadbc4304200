"""What a trial run finds: obstacles, attributes that follow, scales that change."""

from __future__ import annotations

import dataclasses
from typing import Any

from secateur.graph.trace import Node, Trace

__all__ = ["Attempt", "Obstacle", "ScaleChange", "Stop"]


@dataclasses.dataclass
class Obstacle:
    """The first operation that the pruned model cannot do, or does with a wrong size.

    Attributes
    ----------
    node : Node
        The recorded operation at that place.
    module : str
        Path of the module whose code calls it.
    holder : tuple of int or None
        (value, dim) that already decided the size which two places of the code disagree about.
    outputs : list of (int, int)
        (output, dim) of every result that has a wrong size; empty where there was no result.
    called : tuple of int
        The sizes that the code asked for: integers among the arguments, in order.
    """

    node: Node
    module: str
    message: str
    holder: tuple[int, int] | None = None
    outputs: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    called: tuple[int, ...] = ()


@dataclasses.dataclass
class ScaleChange:
    """A number that the code computed from a size; the operand must be multiplied by a factor."""

    node: Node
    operand: int
    factor: float


@dataclasses.dataclass
class Attempt:
    """What a trial run found.

    Attributes
    ----------
    obstacle : Obstacle or None
        None when the whole model ran.
    attributes : dict
        Module path -> attribute -> new value that it took.
    scales : list of ScaleChange
    followed : bool
        Whether every operation was compared; False where the code took another way.
    parted : Obstacle or None
        Where it took another way.
    """

    obstacle: Obstacle | None
    attributes: dict[str, dict[str, Any]]
    scales: list[ScaleChange]
    followed: bool
    trace: Trace | None = None
    parted: Obstacle | None = None


class Stop(Exception):
    """Raised inside the model's code at an operation that does not fit."""

    def __init__(
        self,
        position: int,
        message: str,
        outputs: list[tuple[int, int]] | None = None,
        called: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message)
        self.position = position
        self.message = message
        self.outputs = outputs or []
        self.called = called
