"""The sizes that every tensor of the forward pass should have after surgery."""

from __future__ import annotations

import math

import numpy as np

from secateur.graph.graph import Graph

__all__ = ["ExpectedSizes"]


class ExpectedSizes:
    """Shapes of values when the marked classes are gone.

    Parameters
    ----------
    graph : Graph
    removed : ndarray of bool, shape [classes]
    """

    def __init__(self, graph: Graph, removed: np.ndarray) -> None:
        self.graph = graph
        self.removed = removed
        self._gone: dict[int, int] = {}

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape that a value should have."""
        value = self.graph.trace.values[index]
        layout = self.graph.propagation.layout(index)
        sizes = list(value.shape)
        for dim, lane in enumerate(layout):
            if lane is not None and lane.ids is not None:
                key = id(lane.ids)
                if key not in self._gone:
                    rows = math.prod(lane.ids.shape[:-1])
                    classes = self.graph.coupling.labels[lane.ids]
                    self._gone[key] = int(self.removed[classes].sum()) // rows
                sizes[dim] -= self._gone[key]
        return tuple(sizes)

    def changed(self, index: int) -> bool:
        return self.shape(index) != self.graph.trace.values[index].shape
