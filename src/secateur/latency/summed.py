"""Latency of a model as the sum over its operations."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.graph import Graph
from secateur.latency.calls import call_of, timed_calls
from secateur.latency.operations import Sizes, operation_of
from secateur.latency.table import LatencyTable

__all__ = ["SummedLatency"]


class SummedLatency:
    """Milliseconds of all operations of a forward pass, for given shapes of its values.

    Parameters
    ----------
    graph : Graph
    table : LatencyTable

    Raises
    ------
    InputError
        When the table has not measured one of the operations.
    """

    def __init__(self, graph: Graph, table: LatencyTable) -> None:
        self._grids = []
        for call in timed_calls(graph, table.kinds):
            grid = table.grid(call.operation, call.sizes)
            if grid is not None:
                self._grids.append((call.node, grid))

    def __call__(self, shapes: Sequence[tuple[int, ...]], among: Sequence[bool] = ()) -> float:
        """Milliseconds.

        Parameters
        ----------
        shapes : sequence of tuple of int
            Of every value of the trace.
        among : sequence of bool, optional
            Which of the operations to add up, default all.
        """
        chosen = among or [True] * len(self._grids)
        timed = zip(self._grids, self.sizes(shapes), chosen, strict=True)
        return sum(grid(sizes) for (_, grid), sizes, wanted in timed if wanted)

    def sizes(self, shapes: Sequence[tuple[int, ...]]) -> list[Sizes]:
        """The sizes of every operation."""
        read = (operation_of(call_of(node, shapes.__getitem__)) for node, _ in self._grids)
        return [found[1] for found in read if found is not None]
