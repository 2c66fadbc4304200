"""Latency of a model as the sum over its operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secateur.graph.graph import Graph
from secateur.latency.calls import call_of, timed_calls
from secateur.latency.grid import Grid
from secateur.latency.kinds import operation_of
from secateur.latency.operations import Sizes
from secateur.latency.table import LatencyTable

__all__ = ["Share", "SummedLatency"]


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
        self.grids: list[Grid] = []
        self._nodes = []
        for call in timed_calls(graph, table.kinds):
            grid = table.grid(call.operation, call.sizes)
            if grid is not None:
                self.grids.append(grid)
                self._nodes.append(call.node)

    def __call__(self, shapes: Sequence[tuple[int, ...]]) -> float:
        """Milliseconds.

        Parameters
        ----------
        shapes : sequence of tuple of int
            Of every value of the trace.
        """
        timed = zip(self.grids, self.sizes(shapes), strict=True)
        return sum(grid(sizes) for grid, sizes in timed)

    def sizes(
        self, shapes: Sequence[tuple[int, ...]], among: Sequence[int] | None = None
    ) -> list[Sizes]:
        """The sizes of every operation, or of some, by their numbers."""
        nodes = self._nodes if among is None else [self._nodes[at] for at in among]
        read = (operation_of(call_of(node, shapes.__getitem__)) for node in nodes)
        return [found[1] for found in read if found is not None]


class Share:
    """The operations that some units are part of.

    Parameters
    ----------
    latency : SummedLatency
    shapes : callable
        How many of the units go -> shapes of all values then.
    """

    def __init__(
        self, latency: SummedLatency, shapes: Callable[[int], Sequence[tuple[int, ...]]]
    ) -> None:
        self._latency, self._shapes = latency, shapes
        self._whole, less = latency.sizes(shapes(0)), latency.sizes(shapes(1))
        pairs = enumerate(zip(self._whole, less, strict=True))
        self._touched = [at for at, (before, after) in pairs if before != after]
        self._changed = [
            (at, axis)
            for at in self._touched
            for axis, size in enumerate(self._whole[at])
            if size != less[at][axis]
        ]

    def __call__(self, count: int) -> float:
        """Milliseconds of these operations when so many of the units go."""
        sizes = self._latency.sizes(self._shapes(count), self._touched)
        timed = zip(self._touched, sizes, strict=True)
        return sum(self._latency.grids[at](own) for at, own in timed)

    def measured(self, size: int) -> set[int]:
        """Sizes at the right end of a step in all measurements along an axis of this size.

        Where these have none in common below that size, those of any.
        """
        ends = [
            self._latency.grids[at].right_ends(axis)
            for at, axis in self._changed
            if self._whole[at][axis] == size
        ]
        common = set.intersection(*ends) if ends else set()
        return common if min(common, default=size) < size else set().union(*ends)
