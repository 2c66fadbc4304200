"""Which values of a recorded pass share memory, and how long each piece of memory is needed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from secateur.graph.trace import Node, Trace

__all__ = ["Memory", "makes_view"]

# Views that PyTorch's schemas do not call views.
UNDECLARED = frozenset({"aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh"})


def makes_view(node: Node) -> bool:
    """Whether an operation only looks at the memory of its first tensor in another way."""
    if node.op in UNDECLARED:
        return True
    returned = [result.alias_info for result in node.func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


class Memory:
    """The memory that one forward pass holds besides parameters and buffers.

    A view holds no memory of its own; what it looks at is needed until the last view is done.
    Inputs are held by the caller throughout, outputs from when they are made to the end. While an
    operation runs, what it reads and what it writes are both there.

    Parameters
    ----------
    trace : Trace

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from secateur.graph.trace import record
    >>> from secateur.inputs import as_inputs
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> trace = record(net, as_inputs(torch.zeros(3, 2)))
    >>> Memory(trace).peak([value.shape for value in trace.values])
    216
    """

    def __init__(self, trace: Trace) -> None:
        values, end = trace.values, len(trace.nodes)
        self.owner = list(range(len(values)))
        born: dict[int, int] = {}
        last: dict[int, int] = {}
        for at, node in enumerate(trace.nodes):
            view = makes_view(node)
            for index in node.outputs:
                if index not in node.inputs:
                    if view and node.inputs:
                        self.owner[index] = self.owner[node.inputs[0]]
                    else:
                        born[index] = at
            for index in (*node.inputs, *node.outputs):
                last[self.owner[index]] = at
        for index, value in enumerate(values):
            if value.kind == "input":
                born[index], last[index] = 0, end
        for _, index in trace.outputs:
            last[self.owner[index]] = end
        self._pieces = [
            (index, start, last[index], values[index].dtype.itemsize)
            for index, start in born.items()
        ]
        self._length = end + 1

    def peak(self, shapes: Sequence[Sequence[int]]) -> int:
        """The most bytes held at once.

        Parameters
        ----------
        shapes : sequence of tuple of int
            Of every value of the trace.
        """
        changes = [0] * (self._length + 1)
        for index, start, end, width in self._pieces:
            size = prod(shapes[index]) * width
            changes[start] += size
            changes[end + 1] -= size
        held = most = 0
        for change in changes:
            held += change
            most = max(most, held)
        return most
