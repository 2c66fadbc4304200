"""What an operation is to a latency table: what tells it from others, and which sizes it has.

An operation is known by its kind and by what pruning leaves as it is (resolution, kernel, stride);
its sizes are what pruning changes. Two layers that differ in sizes only are one operation.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

from secateur.graph.trace import Node

__all__ = ["Call", "Fixed", "Kind", "Operation", "Sizes"]

Sizes: TypeAlias = "tuple[int, ...]"
Fixed: TypeAlias = "dict[str, Any]"
Shape: TypeAlias = "tuple[int, ...]"


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation without its sizes.

    Attributes
    ----------
    kind : str
        ``"convolution"``, ``"product"``, ...
    settings : str
        What pruning leaves as it is, as JSON.

    Examples
    --------
    >>> operation = Operation("product", '{"bias": true}')
    >>> operation.key, operation.fixed
    ('product {"bias": true}', {'bias': True})
    """

    kind: str
    settings: str

    @property
    def key(self) -> str:
        """Its name in a table."""
        return f"{self.kind} {self.settings}"

    @property
    def fixed(self) -> Fixed:
        """What pruning leaves as it is."""
        return json.loads(self.settings)


@dataclasses.dataclass(frozen=True)
class Call:
    """What an operation was called with.

    Attributes
    ----------
    node : Node
    inputs : sequence of (tuple of int or None)
        Shape of every positional argument that is a tensor.
    outputs : sequence of tuple of int
    """

    node: Node
    inputs: Sequence[Shape | None]
    outputs: Sequence[Shape]

    def shape(self, at: int) -> Shape:
        """Shape of a positional argument."""
        shape = self.inputs[at]
        assert shape is not None
        return shape

    def plain(self) -> list[Any] | None:
        """Arguments after the first tensor, or None where they are more than numbers."""
        values = [*self.node.args[1:], *self.node.kwargs.values()]
        try:
            json.dumps(values)
        except TypeError:
            return None
        return list(self.node.args[1:])


class Kind(ABC):
    """One kind of operation.

    Attributes
    ----------
    name : str
    ops : tuple of str
        Names of the recorded operations.
    axes : tuple of str
        What its sizes are.
    fused : bool
        Whether a runtime that compiles whole graphs makes it part of the operation before it.
    """

    name: ClassVar[str]
    ops: ClassVar[tuple[str, ...]]
    axes: ClassVar[tuple[str, ...]]
    fused: ClassVar[bool] = False

    @abstractmethod
    def read(self, call: Call) -> tuple[Fixed, Sizes] | None:
        """Return what pruning leaves as it is, and the sizes; None for a call of another kind."""
