"""Latency, measured so that two numbers compare: warmed up, interleaved, medians with their spread.

The candidates take turns inside one run, in an order that rotates, so that a machine that slows
down or speeds up does so for all of them.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.errors import InputError
from secateur.inputs import ExampleInputs, as_inputs, evaluating, named_tensors, run

__all__ = ["Timing", "batch_size", "compare", "interleave"]

WARMUP, RUNS, SECONDS = 50, 200, 20.0
LEAST_RUNS = 5
WARMUP_SHARE = 0.2


@dataclass(frozen=True)
class Timing:
    """How long one candidate took, and under which conditions.

    Attributes
    ----------
    name : str
        The candidate.
    samples_ms : tuple of float
        Wall time of every timed run, in milliseconds, in the order they ran. Sample *i* of two
        candidates of one measurement were taken in the same round.
    threads : int
        PyTorch's intra-operation threads during the measurement.
    device : str
        Where it ran: ``"cpu"``, ``"cuda"``.
    batch : int or None
        Batch size of the inputs, where known.
    """

    name: str
    samples_ms: tuple[float, ...] = field(repr=False)
    threads: int = 1
    device: str = "cpu"
    batch: int | None = None

    @property
    def median_ms(self) -> float:
        """Median over the timed runs, milliseconds."""
        return statistics.median(self.samples_ms)

    @property
    def spread_ms(self) -> float:
        """Interquartile range over the timed runs, milliseconds; 0 for a single run."""
        if len(self.samples_ms) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.samples_ms, n=4, method="inclusive")
        return high - low

    @property
    def runs(self) -> int:
        """Number of timed runs."""
        return len(self.samples_ms)

    @property
    def conditions(self) -> str:
        """The conditions in words, to print under a table."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        batch = "" if self.batch is None else f"batch {self.batch}, "
        return f"{batch}{threads}, {self.device}, median of {self.runs} runs"

    def ratio(self, other: Timing) -> float:
        """Time of this candidate over the other's: the median of the ratios round by round.

        Examples
        --------
        >>> Timing("dense", (4.0, 6.0, 8.0)).ratio(Timing("pruned", (2.0, 3.0, 2.0)))
        2.0
        """
        if self.runs != other.runs:
            raise InputError(
                f"{self.name!r} and {other.name!r} were not timed in one run "
                f"({self.runs} and {other.runs} samples); measure them together"
            )
        pairs = zip(self.samples_ms, other.samples_ms, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def __str__(self) -> str:
        return f"{self.median_ms:.3g} ms ± {self.spread_ms:.2g} ({self.conditions})"


def interleave(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    warmup: int = WARMUP,
    runs: int = RUNS,
    seconds: float = SECONDS,
    threads: int | None = None,
    device: str | torch.device = "cpu",
    batch: int | None = None,
) -> dict[str, Timing]:
    """Time several callables against each other in one interleaved run.

    Parameters
    ----------
    candidates : mapping of str to callable
        Functions without arguments.
    warmup, runs : int, default 50 and 200
        Untimed and timed rounds; each round calls every candidate once. The defaults are those of
        the latency protocol that AMC (He et al. 2018) published for phones, with a shorter warm-up.
    seconds : float, default 20
        Time limit over all candidates. Where it is reached there are fewer rounds, but never fewer
        than 5, and the number that ran is in the result. A fifth of it is for the warm-up.
    threads : int, optional
        Intra-operation threads to measure with; by default the number set now.
    device : str or torch.device, default "cpu"
        Device to wait for before the clock is read.
    batch : int, optional
        Batch size, to be named in the result.

    Returns
    -------
    dict of str to Timing

    Raises
    ------
    InputError
        Where there are no candidates or a number of runs is not positive.

    Examples
    --------
    >>> import time
    >>> timings = interleave({"slow": lambda: time.sleep(0.004), "fast": lambda: time.sleep(0.001)},
    ...                      warmup=1, runs=5)
    >>> timings["slow"].ratio(timings["fast"]) > 1.5
    True
    """
    if not candidates:
        raise InputError("there is nothing to time; pass at least one candidate")
    if runs < 1 or warmup < 0 or seconds <= 0:
        raise InputError(
            f"runs and seconds must be positive and warmup not negative, "
            f"not runs={runs}, seconds={seconds}, warmup={warmup}"
        )
    device = torch.device(device)
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    with _threads(threads), _no_collection():
        start = time.perf_counter()
        for round_ in range(warmup):
            for name in names:
                _timed(candidates[name], device)
            if round_ > 0 and time.perf_counter() - start > WARMUP_SHARE * seconds:
                break
        for round_ in range(runs):
            turn = round_ % len(names)
            for name in names[turn:] + names[:turn]:
                samples[name].append(_timed(candidates[name], device))
            if round_ + 1 >= LEAST_RUNS and time.perf_counter() - start > seconds:
                break
        used = torch.get_num_threads()
    return {
        name: Timing(name, tuple(taken), used, device.type, batch)
        for name, taken in samples.items()
    }


def compare(
    models: Mapping[str, nn.Module],
    example_inputs: ExampleInputs,
    **options: Any,
) -> dict[str, Timing]:
    """Time several models on the same inputs, interleaved, in eval mode and without gradients.

    Parameters
    ----------
    models : mapping of str to torch.nn.Module
        The candidates, for example ``{"dense": dense, "pruned": pruned}``; all on one device.
    example_inputs : Tensor, tuple or dict
        What every one of them is called with.
    **options
        Passed on to `interleave`: ``warmup``, ``runs``, ``seconds``, ``threads``.

    Returns
    -------
    dict of str to Timing

    Raises
    ------
    InputError
        Where a model rejects the inputs.

    Examples
    --------
    >>> models = {"wide": nn.Linear(512, 512), "narrow": nn.Linear(512, 8)}
    >>> timings = compare(models, torch.zeros(4, 512), warmup=2, runs=20)
    >>> timings["wide"].runs, timings["wide"].batch
    (20, 4)
    """
    inputs = as_inputs(example_inputs)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        # evaluating() hides PyTorch's fused transformer; a deployed model would use it.
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for model in models.values():
            run(model, inputs)
        calls = {
            name: lambda model=model: model(*inputs.args, **inputs.kwargs)
            for name, model in models.items()
        }
        first = next((tensor for _, tensor in _tensors(inputs)), None)
        device = torch.device("cpu") if first is None else first.device
        return interleave(calls, device=device, batch=batch_size(example_inputs), **options)


def batch_size(example_inputs: ExampleInputs) -> int | None:
    """Size of the first dimension of the first tensor among the inputs; ``None`` without one.

    Examples
    --------
    >>> batch_size((torch.zeros(4, 3), torch.zeros(7)))
    4
    """
    for _, tensor in _tensors(as_inputs(example_inputs)):
        if tensor.dim():
            return int(tensor.shape[0])
    return None


def _tensors(inputs: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from named_tensors(inputs.args)
    yield from named_tensors(inputs.kwargs)


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return (time.perf_counter() - start) * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "xpu":
        torch.xpu.synchronize(device)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
