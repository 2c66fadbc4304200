"""A table of latencies, measured operation by operation on this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from pathlib import Path

import torch
from torch import nn

from secateur.errors import FileFormatError, InputError, first_line
from secateur.files import replacing
from secateur.graph.graph import Graph
from secateur.graph.trace import record
from secateur.inputs import ExampleInputs, as_inputs
from secateur.latency.calls import TimedCall, timed_calls, untimed
from secateur.latency.conditions import Conditions, cache_path
from secateur.latency.grid import Grid, axes_of
from secateur.latency.operations import Operation, Sizes
from secateur.latency.runtimes import RUNTIMES, Runtime, as_runtime
from secateur.latency.stopwatch import Stopwatch, Timer, noise_of
from secateur.progress import Tick

__all__ = ["LatencyTable"]

FORMAT = "secateur latency table 1"
LEAST_TOLERANCE, MOST_TOLERANCE = 0.01, 0.05


@dataclasses.dataclass
class LatencyTable:
    """How long the operations of a model take, at every size that pruning may leave.

    Attributes
    ----------
    conditions : Conditions
        Machine, runtime, versions, dtype and threads.
    points : int
        At most so many steps along each size.
    grids : dict of str to list of Grid
        Per operation what was measured, once for every dense size.
    skipped : dict of str to str
        Operations that could not be timed by themselves, and why; they count as free.
    """

    conditions: Conditions
    points: int
    grids: dict[str, list[Grid]] = dataclasses.field(default_factory=dict, repr=False)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def measure(
        cls,
        model: nn.Module,
        example_inputs: ExampleInputs,
        runtime: str = "torch",
        *,
        threads: int | None = None,
        cache: str | os.PathLike[str] | bool = False,
        points: int | None = None,
        runs: int = 10,
        timer: Timer | None = None,
        tick: Tick | None = None,
    ) -> LatencyTable:
        """Time every distinct costly operation of a model on this machine.

        Parameters
        ----------
        model : torch.nn.Module
            Not changed.
        example_inputs : tensor, tuple or dict
            With the batch size and the resolution to measure at.
        runtime : {"torch", "torch.compile", "onnxruntime", "openvino"}, default "torch"
            Where the model will run. What is element-wise, norms of a batch and pooling count in
            ``"torch"`` only: the others make them part of the operation before.
        threads : int, optional
            Default: those that PyTorch is set to.
        cache : path or bool, default False
            A file to read from and to add to, so that an operation is measured once; it grows
            after every operation, and an interrupted measurement goes on. True takes one in the
            user's cache folder. A file from another machine, version, dtype or number of threads
            is refused.
        points : int, optional
            At most so many steps along each size, default 8 (with ``"torch.compile"`` 2). Both
            ends of every step are measured.
        runs : int, default 10
            Timed runs of every size; the median counts.
        timer : callable, optional
            ``timer(operation, list of sizes) -> list of Timing`` to use instead of the clock.
        tick : callable, optional
            Told ``(done, total, operation)``.

        Raises
        ------
        UnknownNameError
            For an unknown runtime; the message suggests the nearest.
        MissingExtraError
            When the runtime is not installed; the message names the extra.
        InputError
            When the cache is from elsewhere, or the runtime does not work here.
        FileFormatError
            When the cache is damaged.

        Examples
        --------
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> table = LatencyTable.measure(net, torch.zeros(1, 4), points=2, runs=2)
        >>> sorted(key.split()[0] for key in table.grids)
        ['elementwise', 'product']
        """
        kind = as_runtime(runtime)
        for name, value in (("threads", threads), ("points", points), ("runs", runs)):
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if value is not None and not whole:
                raise InputError(f"{name} must be an integer of at least 1, not {value!r}")
        inputs = as_inputs(example_inputs)
        place = kind(*_dtype_and_device(model), threads or torch.get_num_threads())
        table = cls(Conditions.here(place), points or kind.points)
        path = None
        if cache is not False:
            path = cache_path(table.conditions) if cache is True else Path(cache)
            if path.exists():
                table._take(cls.load(path))
        graph = Graph(model, record(model, inputs))
        table.skipped.update(untimed(graph))
        calls = timed_calls(graph, place.kinds)
        missing = {(call.operation.key, call.sizes): call for call in calls if not table._has(call)}
        # The largest first: what it covers needs no grid of its own.
        largest = sorted(missing.values(), key=lambda call: -sum(call.sizes))
        for done, call in enumerate(largest):
            if tick is not None:
                tick(done, len(largest), call.operation.key)
            if table._has(call):
                continue
            table._add(call, timer or Stopwatch(place, runs))
            if path is not None:
                table.save(path)
        if not table.grids:
            reasons = "; ".join(table.skipped.values()) or "it runs none that takes time"
            raise InputError(f"no operation of the model can be timed in {runtime}: {reasons}")
        return table

    def __call__(self, operation: Operation, sizes: Sizes) -> float:
        """Milliseconds of an operation at these sizes; 0 for one that could not be timed.

        Raises
        ------
        InputError
            When it was not measured.
        """
        grid = self.grid(operation, sizes)
        return 0.0 if grid is None else grid(sizes)

    def grid(self, operation: Operation, sizes: Sizes) -> Grid | None:
        """What was measured up to about these sizes; None for what could not be timed.

        Raises
        ------
        InputError
            When it was not measured.
        """
        if operation.key in self.skipped:
            return None
        grids = self.grids.get(operation.key)
        if not grids:
            raise InputError(
                f"the latency table has no {operation.key}: measure it on this model, with inputs "
                "of these shapes"
            )
        covering = [grid for grid in grids if grid.covers(sizes)]
        return min(covering, key=_extent) if covering else max(grids, key=_extent)

    @property
    def kinds(self) -> frozenset[str]:
        """Operations that the runtime runs by themselves."""
        return RUNTIMES[self.conditions.runtime].kinds

    @property
    def tolerance(self) -> float:
        """Relative differences up to this may be chance: the median noise, between 1 and 5 %."""
        noises = [grid.noise for grids in self.grids.values() for grid in grids]
        return min(max(LEAST_TOLERANCE, statistics.median(noises)), MOST_TOLERANCE)

    def runtime(self) -> Runtime | None:
        """The runtime, ready to run under the table's conditions; None on another machine."""
        kind = RUNTIMES[self.conditions.runtime]
        dtype = getattr(torch, self.conditions.dtype)
        device = torch.device(self.conditions.device)
        place = kind(dtype, device, self.conditions.threads)
        return None if self.conditions.differences(Conditions.here(place)) else place

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        text = {
            "format": FORMAT,
            "conditions": dataclasses.asdict(self.conditions),
            "points": self.points,
            "operations": {
                key: [grid.to_json() for grid in grids] for key, grids in self.grids.items()
            },
            "skipped": self.skipped,
        }
        with replacing(path) as draft:
            draft.write_text(json.dumps(text), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table, whatever machine it is from: pruning for a device needs no such device.

        Raises
        ------
        FileFormatError
            When it is not one, or damaged.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/table.json"
        ...     table = LatencyTable.measure(nn.Linear(2, 2), torch.zeros(1, 2), runs=1, cache=path)
        ...     LatencyTable.load(path).grids == table.grids
        True
        """
        try:
            read = json.loads(Path(path).read_text(encoding="utf-8"))
            if read["format"] != FORMAT:
                raise ValueError(f"its format is {read['format']!r}")
            return cls(
                Conditions.from_json(read["conditions"]),
                int(read["points"]),
                {
                    str(key): [Grid.from_json(grid) for grid in grids]
                    for key, grids in read["operations"].items()
                },
                {str(key): str(why) for key, why in read["skipped"].items()},
            )
        except OSError as error:
            raise InputError(f"cannot read the latency table {str(path)!r}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(
                f"{str(path)!r} is no latency table, or damaged ({first_line(error)}); delete it "
                "and measure again"
            ) from error

    def _take(self, cached: LatencyTable) -> None:
        """Go on from a table of the same conditions."""
        differences = cached.conditions.differences(self.conditions)
        if differences:
            raise InputError(
                f"the latency cache is from elsewhere ({differences}); name another file, or pass "
                "latency=LatencyTable.load(...) to prune for that machine"
            )
        if cached.points >= self.points:
            self.points, self.grids = cached.points, cached.grids
        self.skipped = cached.skipped

    def _has(self, call: TimedCall) -> bool:
        grids = self.grids.get(call.operation.key, [])
        return call.operation.key in self.skipped or any(
            grid.covers(call.sizes)
            and not any(v and len(axis) == 1 for v, axis in zip(call.vary, grid.axes, strict=True))
            for grid in grids
            if _close(grid, call.sizes)
        )

    def _add(self, call: TimedCall, timer: Timer) -> None:
        axes = axes_of(call.sizes, call.vary, self.points)
        grid = Grid(tuple(map(tuple, axes)), ())
        try:
            timings = timer(call.operation, grid.points)
        except Exception as error:  # what cannot be timed alone is listed
            self.skipped[call.operation.key] = f"{type(error).__name__}: {first_line(error)}"
            return
        ms = tuple(timing.median_ms for timing in timings)
        grid = dataclasses.replace(grid, ms=ms, noise=noise_of(timings))
        self.grids.setdefault(call.operation.key, []).append(grid)


def _extent(grid: Grid) -> int:
    return sum(axis[-1] for axis in grid.axes)


def _close(grid: Grid, sizes: Sizes) -> bool:
    """Whether a grid was measured finely enough for sizes that are smaller than its own."""
    return all(2 * size >= axis[-1] for size, axis in zip(sizes, grid.axes, strict=True))


def _dtype_and_device(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    raise InputError("the model has no weights, so there is nothing to measure latency for")
