"""A recorded forward pass with every value defined once, whatever is written in place."""

from __future__ import annotations

from collections import defaultdict

from secateur.graph.trace import INCIDENTAL, Node, Trace
from secateur.inputs import Inputs

__all__ = ["Dataflow", "doubled"]


class Dataflow:
    """Which operation defines what another one reads.

    A value that is written in place is another definition afterwards; a copy of a value is the
    same one.

    Parameters
    ----------
    trace : Trace

    Attributes
    ----------
    reads, writes : dict of int to list of int
        Index of a node -> the definitions that it reads and makes.
    maker : dict of int to Node
        Definition -> the node that makes it; none for inputs, parameters and constants.
    readers : dict of int to list of Node
    value : dict of int to int
        Definition -> its value in the trace.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.reads: dict[int, list[int]] = {}
        self.writes: dict[int, list[int]] = {}
        self.maker: dict[int, Node] = {}
        self.readers: dict[int, list[Node]] = defaultdict(list)
        self.value: dict[int, int] = {}
        self.nodes: list[Node] = []
        current: dict[int, int] = {}

        def known(value: int) -> int:
            if value not in current:
                current[value] = self._define(value)
            return current[value]

        for node in trace.nodes:
            read = [known(value) for value in node.inputs]
            if node.op in INCIDENTAL and len(read) == 1 and len(node.outputs) == 1:
                shapes = [trace.values[at].shape for at in (node.inputs[0], node.outputs[0])]
                if shapes[0] == shapes[1]:
                    current[node.outputs[0]] = read[0]
                    continue
            written = [self._define(value) for value in node.outputs]
            for value, definition in zip(node.outputs, written, strict=True):
                current[value] = definition
                self.maker[definition] = node
            for definition in dict.fromkeys(read):
                self.readers[definition].append(node)
            self.reads[node.index], self.writes[node.index] = read, written
            self.nodes.append(node)
        self.left = {current[value] for _, value in trace.outputs if value in current}
        self.fixed: set[int] = self._fixed()

    def _define(self, value: int) -> int:
        definition = len(self.value)
        self.value[definition] = value
        return definition

    def _fixed(self) -> set[int]:
        """Definitions that are the same for all data."""
        kinds = {at: value.kind for at, value in enumerate(self.trace.values)}
        fixed = {
            definition
            for definition, value in self.value.items()
            if definition not in self.maker and kinds[value] != "input"
        }
        for node in self.nodes:
            if all(definition in fixed for definition in self.reads[node.index]):
                fixed.update(self.writes[node.index])
        return fixed

    def shape(self, definition: int) -> tuple[int, ...]:
        return self.trace.values[self.value[definition]].shape


def doubled(inputs: Inputs) -> Inputs:
    """The same inputs with every example twice.

    Examples
    --------
    >>> import torch
    >>> doubled(Inputs((torch.zeros(2, 3),))).args[0].shape
    torch.Size([4, 3])
    """
    fresh = inputs.fresh()
    rows = {tensor.shape[0] for _, tensor in fresh.tensors() if tensor.dim()}
    # What has another size in front is no example: a position, a mask over the length.
    batch = next((tensor.shape[0] for _, tensor in fresh.tensors() if tensor.dim()), 0)
    if not rows:
        return fresh
    return fresh.replaced(
        lambda name, tensor: (
            tensor.repeat(2, *[1] * (tensor.dim() - 1))
            if tensor.dim() and tensor.shape[0] == batch
            else tensor
        )
    )
