"""Did the model become as fast as its operations promised? Both models timed whole, in turns."""

from __future__ import annotations

import dataclasses

from torch import nn

from secateur.inputs import Inputs, evaluating, run
from secateur.latency.runtimes import Runtime
from secateur.profiling.latency import Timing, interleave

__all__ = ["LatencyCheck", "check_latency"]

RUNS, WARMUP, SECONDS = 50, 5, 10.0


@dataclasses.dataclass(frozen=True)
class LatencyCheck:
    """Latency of the pruned model over that of the dense one: foretold, and measured.

    Attributes
    ----------
    runtime : str
    predicted : float
        The ratio by the table of operations.
    measured : float or None
        The ratio of the whole models: the median over rounds, in each of which both ran. None
        where the table is from another machine.
    dense, pruned : Timing or None
        The measurement behind it.

    Examples
    --------
    >>> LatencyCheck("torch", 0.5, 0.55)
    LatencyCheck(runtime='torch', predicted=0.5, measured=0.55, dense=None, pruned=None)
    """

    runtime: str
    predicted: float
    measured: float | None = None
    dense: Timing | None = None
    pruned: Timing | None = None


def check_latency(
    runtime: Runtime,
    dense: tuple[nn.Module, Inputs],
    pruned: tuple[nn.Module, Inputs],
    predicted: float,
) -> LatencyCheck:
    """Time two models, each on its inputs, whole and in turns."""
    with evaluating(dense[0]), evaluating(pruned[0]):
        for model, inputs in (dense, pruned):
            run(model, inputs)
        runtime.begin()
        timed = interleave(
            {"dense": runtime.model(*dense), "pruned": runtime.model(*pruned)},
            warmup=WARMUP, runs=RUNS, seconds=SECONDS,
            threads=runtime.threads, device=runtime.device,
        )  # fmt: skip
    measured = timed["pruned"].ratio(timed["dense"])
    return LatencyCheck(runtime.name, predicted, measured, timed["dense"], timed["pruned"])
