"""Run a model again, and say of each operation which recorded one it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.errors import InputError
from secateur.graph.trace import INCIDENTAL, Node, Ref, Trace, canonical

__all__ = ["Replay", "matched"]


class Replay(TorchDispatchMode):
    """Hands every operation that runs to `carry_out`, with the recorded one that it is.

    Parameters
    ----------
    trace : Trace
        A pass of the same model on inputs of the same shapes.

    Attributes
    ----------
    remedy : str
        What helps where the model runs other operations than the recorded ones.
    """

    remedy = "make its forward pass deterministic"

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._essential = trace.essential()
        self._position = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        node = self._recorded(func)
        if node is None:
            return func(*args, **kwargs)
        return self.carry_out(node, func, args, kwargs)

    @abstractmethod
    def carry_out(
        self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the operation, in its own way or in another; its result."""

    def _recorded(self, func: Any) -> Node | None:
        """The recorded operation that this one is; incidental ones come and go with strides."""
        op = canonical(func._schema.name)
        if op in INCIDENTAL or self._position >= len(self._essential):
            return None
        node = self._essential[self._position]
        if canonical(node.op) != op:
            raise InputError(
                f"the model runs other operations on the same inputs ({op} after {node.op}); "
                f"{self.remedy}"
            )
        self._position += 1
        return node


def matched(recorded: Any, actual: Any) -> Iterator[tuple[int, Tensor]]:
    """Which value each tensor among the arguments of an operation is.

    Examples
    --------
    >>> import torch
    >>> [index for index, _ in matched((Ref(3), 1, [Ref(5)]), (torch.ones(1), 1, [torch.ones(1)]))]
    [3, 5]
    """
    if isinstance(recorded, Ref):
        yield recorded.index, actual
    elif isinstance(recorded, dict):
        for key, value in recorded.items():
            yield from matched(value, actual[key])
    elif isinstance(recorded, (list, tuple)):
        for value, given in zip(recorded, actual, strict=True):
            yield from matched(value, given)
