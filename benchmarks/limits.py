"""What the machine can do at most, which measured times are held against."""

from __future__ import annotations

import ctypes
import dataclasses
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from secateur.sparse import build

SOURCE = Path(__file__).with_suffix(".c")
ROUNDS, TRIES = 2_000_000, 15
BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of all threads together.

    Attributes
    ----------
    flops : float
        float32 operations a second, a multiply-add being two.
    bandwidth : float
        Bytes a second read from memory.
    """

    flops: float
    bandwidth: float

    def fraction(self, seconds: float, flops: float, moved: float) -> float:
        """The time that the limits allow, over the time that was taken."""
        return max(flops / self.flops, moved / self.bandwidth) / seconds


def measure_limits(threads: int) -> Limits:
    """The best of several tries each."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "limits.so"
        flags = ["-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"]
        subprocess.run([build.compiler(), *flags, str(SOURCE), "-o", str(made)], check=True)
        function = ctypes.CDLL(str(made)).multiply_add
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_void_p)
        function.restype = ctypes.c_double
        out = (ctypes.c_float * 1)()
        flops = max(_rate(lambda: function(threads, ROUNDS, out)) for _ in range(TRIES))
    numbers = torch.ones(BYTES // 4)

    def read() -> float:
        numbers.sum()
        return BYTES

    return Limits(flops, max(_rate(read) for _ in range(TRIES)))


def _rate(work: object) -> float:
    start = time.perf_counter()
    done = work()  # type: ignore[operator]
    return done / (time.perf_counter() - start)
