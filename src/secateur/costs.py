"""What a pruned model costs, known before anything is cut."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TypeAlias

import numpy as np
from torch import nn

from secateur.graph.graph import Graph
from secateur.graph.lanes import Lane
from secateur.graph.trace import Node, Ref, named_state
from secateur.latency import LatencyTable
from secateur.latency.summed import Share, SummedLatency
from secateur.profiling.energy import Energy
from secateur.profiling.macs import COUNTED, node_macs
from secateur.profiling.storage import Memory

__all__ = ["CostModel"]

Dims: TypeAlias = list[tuple[int, int]]


class CostModel:
    """What a model costs as a function of which classes are removed.

    The sizes are followed through the graph and handed to the same counting rules that the
    profile uses, so what is predicted is what is measured afterwards.

    Parameters
    ----------
    graph : Graph
    model : torch.nn.Module
    measures : collection of str, optional
        Which of ``activations`` (peak bytes beside the weights in one forward pass) and ``energy``
        (an estimate, in picojoules) to count beside ``macs``, ``params`` and ``bytes``.
    table : LatencyTable, optional
        For ``latency``, in milliseconds: the sum over all operations that take time.

    Examples
    --------
    >>> import torch
    >>> from secateur.graph import trace
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> costs = CostModel(trace(net, torch.zeros(3, 2)), net, measures=["activations"])
    >>> costs.dense
    {'macs': 72, 'params': 33, 'bytes': 132, 'activations': 216}
    """

    def __init__(
        self,
        graph: Graph,
        model: nn.Module,
        *,
        measures: Collection[str] = (),
        table: LatencyTable | None = None,
    ) -> None:
        self.graph = graph
        self._lanes: list[tuple[np.ndarray, int]] = []
        self._lane_at: dict[int, int] = {}
        # Lanes are told apart by their arrays, which must not be freed meanwhile.
        self._alive: list[np.ndarray] = []
        parameters = {id(tensor) for tensor in model.parameters()}
        buffers = {id(tensor) for tensor in model.buffers()}
        layouts = {
            value.name: graph.propagation.layout(index)
            for index, value in enumerate(graph.trace.values)
            if value.kind == "state"
        }
        self._tensors = []
        for name, tensor in named_state(model).items():
            if id(tensor) in parameters or id(tensor) in buffers:
                lanes = layouts.get(name, [None] * tensor.dim())
                self._tensors.append(
                    (self._dims(tuple(tensor.shape), lanes), tensor.element_size(),
                     id(tensor) in parameters)
                )  # fmt: skip
        self._nodes = [
            (node, *self._operands(node)) for node in graph.trace.nodes if node.op in COUNTED
        ]
        self._memory = Memory(graph.trace) if "activations" in measures else None
        self._energy = Energy(graph.trace) if "energy" in measures else None
        self.table = table
        self._latency = None if table is None else SummedLatency(graph, table)
        self._values: list[Dims] = []
        if measures or table is not None:
            p = graph.propagation
            indices = range(len(graph.trace.values))
            self._values = [self._dims(p.shape(index), p.layout(index)) for index in indices]

    @property
    def dense(self) -> dict[str, float]:
        """Cost when nothing is removed."""
        return self(np.zeros(self.graph.n_classes, dtype=bool))

    def _operands(self, node: Node) -> tuple[list[Dims | None], list[Dims]]:
        p = self.graph.propagation
        inputs: list[Dims | None] = []
        for argument in node.args:
            if isinstance(argument, Ref):
                inputs.append(self._dims(p.shape(argument), p.layout(argument)))
            else:
                inputs.append(None)
        outputs: list[Dims] = [self._dims(p.shape(i), p.layout(i)) for i in node.outputs]
        return inputs, outputs

    def _dims(self, shape: tuple[int, ...], lanes: Iterable[Lane | None]) -> Dims:
        """Per dimension its dense size and the number of its lane, -1 for none."""
        return [(size, self._register(lane)) for size, lane in zip(shape, lanes, strict=True)]

    def _register(self, lane: Lane | None) -> int:
        if lane is None or lane.ids is None:
            return -1
        number = self._lane_at.get(id(lane.ids))
        if number is None:
            number = self._lane_at[id(lane.ids)] = len(self._lanes)
            self._alive.append(lane.ids)
            rows = math.prod(lane.ids.shape[:-1])
            self._lanes.append((self.graph.coupling.labels[lane.ids].ravel(), rows))
        return number

    def __call__(self, removed: np.ndarray) -> dict[str, float]:
        """Cost when the classes marked in a boolean array are gone.

        Parameters
        ----------
        removed : ndarray of bool, shape [classes]

        Returns
        -------
        dict
            ``macs`` (of the example batch), ``params``, ``bytes``, and the measures asked for.
        """
        gone = self._gone(removed)
        params = total = 0
        for dims, width, counted in self._tensors:
            elements = math.prod(_sizes(dims, gone))
            total += elements * width
            params += elements if counted else 0
        macs = []
        for node, inputs, outputs in self._nodes:
            shapes = [None if dims is None else _sizes(dims, gone) for dims in inputs]
            results = [_sizes(dims, gone) for dims in outputs]
            macs.append((node, node_macs(node.op, shapes, results, node.args)))
        cost: dict[str, float] = {
            "macs": sum(count for _, count in macs), "params": params, "bytes": total
        }  # fmt: skip
        values = self._shapes(removed)
        if self._memory is not None:
            cost["activations"] = self._memory.peak(values)
        if self._energy is not None:
            cost["energy"] = self._energy(macs, values)
        if self._latency is not None:
            cost["latency"] = self._latency(values)
        return cost

    def latency_of(self, units: np.ndarray) -> Share:
        """The part of the latency that depends on how many of these units go.

        Parameters
        ----------
        units : ndarray of int, shape [units, classes of each]
            Two or more; the first ones go first.

        Raises
        ------
        ValueError
            Without a table.
        """
        if self._latency is None:
            raise ValueError("a cost model without a table knows no latency")

        def shapes(count: int) -> list[tuple[int, ...]]:
            removed = np.zeros(self.graph.n_classes, dtype=bool)
            removed[units[:count].ravel()] = True
            return self._shapes(removed)

        return Share(self._latency, shapes)

    def _gone(self, removed: np.ndarray) -> list[int]:
        return [int(removed[classes].sum()) // rows for classes, rows in self._lanes]

    def _shapes(self, removed: np.ndarray) -> list[tuple[int, ...]]:
        """Of every value of the trace, where they are wanted."""
        gone = self._gone(removed)
        return [_sizes(dims, gone) for dims in self._values]


def _sizes(dims: Dims, gone: list[int]) -> tuple[int, ...]:
    return tuple(size - gone[lane] if lane >= 0 else size for size, lane in dims)
