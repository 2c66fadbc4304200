"""Everything in turns: whoever is slow because the machine is, is not slow alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from secateur.bench.results import Benchmark, Line, Machine
from secateur.bench.subjects import DTYPES, Subject
from secateur.errors import InputError, SecateurError, UnknownNameError, first_line, suggestion
from secateur.latency.runtimes import Runtime, as_runtime
from secateur.profiling import interleave
from secateur.progress import Tick

__all__ = ["bench"]

SECONDS = 10.0


def bench(
    subjects: Sequence[Subject],
    *,
    runtimes: Sequence[str] = ("torch",),
    batches: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("float32",),
    threads: Sequence[int] = (),
    runs: int = 100,
    seconds: float = SECONDS,
    progress: Tick | None = None,
) -> Benchmark:
    """Time models in every combination of runtimes, batch sizes, dtypes and threads.

    All that share batch size and threads take turns in one run, in an order that rotates. What does
    not run under some conditions is listed with the reason, and does not stop the others.

    Parameters
    ----------
    subjects : sequence of Subject
        As `open_subjects` finds them.
    runtimes : sequence of str
        ``"torch"``, ``"torch.compile"``, ``"onnxruntime"``, ``"openvino"``.
    batches : sequence of int
    dtypes : sequence of str
        ``"float32"``, ``"bfloat16"``, ``"float16"``. PyTorch models are converted; OpenVINO
        computes what is float32 in its files so.
    threads : sequence of int
        By default PyTorch's number of threads.
    runs : int, default 100
        Timed rounds, at most.
    seconds : float, default 10
        For all that take turns together; at least 5 rounds are timed.
    progress : callable, optional

    Returns
    -------
    Benchmark

    Raises
    ------
    InputError
        Where nothing could be timed, or a number is not positive.
    UnknownNameError
        For an unknown runtime or dtype.

    Examples
    --------
    >>> from secateur.bench.subjects import ModelSubject
    >>> models = [ModelSubject("wide", torch.nn.Linear(512, 512), torch.zeros(1, 512)),
    ...           ModelSubject("narrow", torch.nn.Linear(512, 8), torch.zeros(1, 512))]
    >>> done = bench(models, batches=[1, 64], runs=10)
    >>> [(line.model, line.batch, len(line.samples_ms)) for line in done.lines]
    [('wide', 1, 10), ('narrow', 1, 10), ('wide', 64, 10), ('narrow', 64, 10)]
    """
    for name in dtypes:
        if name not in DTYPES:
            raise UnknownNameError(f"unknown dtype {name!r}{suggestion(name, DTYPES)}")
    kinds = [as_runtime(name) for name in runtimes]
    counts = list(threads) or [torch.get_num_threads()]
    if not subjects or min([*batches, *counts, runs], default=0) < 1 or not batches:
        raise InputError("bench needs models, and batch sizes, threads and runs from 1 on")
    lines: list[Line] = []
    skipped: dict[str, str] = {}
    groups = [(count, batch) for count in counts for batch in batches]
    for number, (count, batch) in enumerate(groups):
        if progress is not None:
            progress(number, len(groups), f"batch {batch}, {count} threads")
        with _threads(count):
            group = _Group(subjects, kinds, dtypes, batch, count)
            lines += group.timed(runs, seconds)
        skipped |= group.skipped
    if not lines:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3])
        raise InputError(f"nothing could be timed ({reasons})")
    return Benchmark(Machine.here(), lines, list(skipped.items()))


class _Group:
    """What takes turns: one batch size, one number of threads."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        kinds: Sequence[type[Runtime]],
        dtypes: Sequence[str],
        batch: int,
        threads: int,
    ) -> None:
        self.batch, self.threads = batch, threads
        self.skipped: dict[str, str] = {}
        self._calls: dict[str, Callable[[], Any]] = {}
        self._lines: dict[str, tuple[str, str, str, str]] = {}
        for kind in kinds:
            try:
                runtime = kind(torch.float32, torch.device("cpu"), threads)
            except SecateurError as error:
                self.skipped[kind.name] = str(error)
                continue
            runtime.begin()
            versions = ", ".join(f"{n} {v}" for n, v in runtime.versions().items())
            for subject in subjects:
                for dtype in dtypes:
                    self._add(subject, runtime, dtype, versions)

    def _add(self, subject: Subject, runtime: Runtime, dtype: str, versions: str) -> None:
        label = f"{subject.name}, {runtime.name}, {dtype}, batch {self.batch}"
        try:
            call = subject.ready(runtime, dtype, self.batch)
            # Compilers do their work at the first call.
            call()
        except SecateurError as error:
            self.skipped[label] = str(error)
            return
        except Exception as error:
            self.skipped[label] = f"{type(error).__name__}: {first_line(error)}"
            return
        self._calls[label] = call
        self._lines[label] = (subject.name, runtime.name, dtype, versions)

    def timed(self, runs: int, seconds: float) -> list[Line]:
        """Time all of them; nothing where there are none."""
        if not self._calls:
            return []
        times = interleave(self._calls, warmup=10, runs=runs, seconds=seconds, threads=self.threads)
        return [
            Line(model, runtime, dtype, self.batch, self.threads, times[label].samples_ms, versions)
            for label, (model, runtime, dtype, versions) in self._lines.items()
        ]


@contextlib.contextmanager
def _threads(count: int) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
