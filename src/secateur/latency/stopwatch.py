"""Timing one operation at many sizes, so that they compare."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeAlias

from secateur.latency.operations import Operation, Sizes
from secateur.latency.runtimes import Runtime
from secateur.profiling.latency import Timing, interleave

__all__ = ["Stopwatch", "Timer"]

Timer: TypeAlias = Callable[[Operation, Sequence[Sizes]], list[Timing]]
"""An operation and the sizes to time it at -> a timing for each, in order."""

TOGETHER = 8
WARMUP = 2
SECONDS = 60.0


class Stopwatch:
    """Times an operation at several sizes, which take turns.

    The largest size runs with every few of the others, whose times are scaled by it: a machine
    that slows down half-way slows all sizes down.

    Parameters
    ----------
    runtime : Runtime
    runs : int
    """

    def __init__(self, runtime: Runtime, runs: int) -> None:
        self.runtime, self.runs = runtime, runs

    def __call__(self, operation: Operation, points: Sequence[Sizes]) -> list[Timing]:
        runtime, found, reference = self.runtime, [], 0.0
        anchor = points[-1]
        for start in range(0, len(points), TOGETHER):
            part = points[start : start + TOGETHER]
            runtime.begin()
            calls = {
                str(sizes): runtime.operation(operation, sizes)
                for sizes in dict.fromkeys([*part, anchor])
            }
            timed = interleave(
                calls, warmup=WARMUP, runs=self.runs, seconds=SECONDS,
                threads=runtime.threads, device=runtime.device,
            )  # fmt: skip
            steady = timed[str(anchor)].median_ms
            reference = reference or steady
            for sizes in part:
                samples = timed[str(sizes)].samples_ms
                scaled = tuple(reference * sample / steady for sample in samples)
                found.append(Timing(str(sizes), scaled, runtime.threads, runtime.device.type))
        return found


def noise_of(timings: Sequence[Timing]) -> float:
    """Twice the standard error of a median among these, as a fraction of it: by and large.

    Examples
    --------
    >>> noise_of([Timing("steady", (2.0, 2.0, 2.0))])
    0.0
    """
    # The standard error of a median is about 0.93 interquartile ranges over the root of the runs.
    return statistics.median(
        2 * 0.93 * timing.spread_ms / max(timing.median_ms, 1e-9) / timing.runs**0.5
        for timing in timings
    )
