"""Everything about a model that finding sites needs: its graph, its data flow, its layers."""

from __future__ import annotations

from functools import cached_property

from torch import nn

from secateur.dynamic.dataflow import Dataflow, doubled
from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.graph.trace import Node, Ref, record
from secateur.inputs import Inputs
from secateur.profiling.macs import COUNTED, node_macs

__all__ = ["Traced"]

Skipped = list[tuple[str, str]]


class Traced:
    """A model that ran once, and once more with every example twice.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : Inputs

    Raises
    ------
    InputError
        When the batch is empty, or the model rejects it, or computes something else for more
        examples.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        first = next((tensor for _, tensor in inputs.tensors() if tensor.dim()), None)
        if first is None or not first.shape[0]:
            raise InputError(
                "example_inputs is a batch of size 0; pass at least one example, "
                "with the examples along the first dimension"
            )
        self.batch = int(first.shape[0])
        self.trace = record(model, inputs)
        self.graph = Graph(model, self.trace)
        self.flow = Dataflow(self.trace)
        self.modules = dict(model.named_modules())
        twice = record(model, doubled(inputs))
        same = len(twice.values) == len(self.trace.values)
        self._twice = twice if same else self.trace
        self.steady = same

    @cached_property
    def whole(self) -> Graph:
        """The graph in which heads leave whole, where the other narrows every head."""
        choice = dict.fromkeys(self.graph.propagation.splits, 1)
        return Graph(self.model, self.trace, split_choice=choice) if choice else self.graph

    @cached_property
    def by_module(self) -> dict[str, list[Node]]:
        """Path of a module -> the operations on data that ran in its own code."""
        found: dict[str, list[Node]] = {}
        for node in self.flow.nodes:
            written = self.flow.writes[node.index]
            if all(definition in self.flow.fixed for definition in written):
                continue
            found.setdefault(node.module, []).append(node)
        return found

    def under(self, path: str) -> list[Node]:
        """The operations that ran in a module or below it."""
        return [
            node
            for module, nodes in self.by_module.items()
            if module == path or module.startswith(f"{path}.")
            for node in nodes
        ]

    def by_example(self, value: int) -> bool:
        """Whether the first dimension of a value is the examples."""
        shape, twice = self.trace.values[value].shape, self._twice.values[value].shape
        return bool(shape) and shape[0] == self.batch and twice[0] == 2 * self.batch

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of one example in one operation."""
        if node.op not in COUNTED:
            return 0
        values = self.trace.values
        inputs = [values[each.index].shape if isinstance(each, Ref) else None for each in node.args]
        outputs = [values[index].shape for index in node.outputs]
        return node_macs(node.op, inputs, outputs, node.args) // self.batch
