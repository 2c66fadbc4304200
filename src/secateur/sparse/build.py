"""Compiling the native kernels with the machine's own compiler, for every instruction set.

Only the standard library is imported here, so that the build of the wheel can use it as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["NAME", "SOURCES", "BuildError", "build", "compiler", "fingerprint"]

SOURCES = Path(__file__).parent / "native"
NAME = "secateur_sparse.so"
# Chains of sums that the sources keep apart would be gathered into vectors, which is slower.
FLAGS = (
    "-O3",
    "-fno-tree-slp-vectorize",
    "-std=gnu11",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wno-psabi",
    "-pthread",
)
SECONDS = 300


class BuildError(Exception):
    """The kernels cannot be compiled here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """The kernels for one instruction set.

    Attributes
    ----------
    name : str
    flags : tuple of str
        What the compiler needs to be told.
    """

    name: str
    flags: tuple[str, ...] = ()


BASELINE = Variant("baseline")
X86 = (
    Variant("avx2", ("-mavx2", "-mfma")),
    Variant("avx512", ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma")),
)


def variants(machine: str | None = None) -> tuple[Variant, ...]:
    """What is compiled for a machine: the baseline, and more where there is more.

    Examples
    --------
    >>> [variant.name for variant in variants("x86_64")]
    ['baseline', 'avx2', 'avx512']
    >>> [variant.name for variant in variants("aarch64")]
    ['baseline']
    """
    machine = (machine or platform.machine()).lower()
    return (BASELINE, *(X86 if machine in ("x86_64", "amd64") else ()))


def compiler() -> str:
    """Find the C compiler: what ``CC`` names, or the first of cc, gcc and clang.

    Raises
    ------
    BuildError
        Where there is none.
    """
    wanted = os.environ.get("CC", "").split()
    for name in wanted[:1] or ["cc", "gcc", "clang"]:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(f"no C compiler ({wanted[0] if wanted else 'cc, gcc or clang'}) is installed")


def fingerprint() -> str:
    """What a compiled library depends on: its sources, flags and platform."""
    digest = hashlib.sha256(repr((FLAGS, variants(), sys.platform)).encode())
    for path in sorted(SOURCES.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def build(target: Path) -> None:
    """Compile the kernels into one shared library.

    It appears whole or not at all. Where the compiler has no OpenMP, the kernels use one thread.

    Parameters
    ----------
    target : pathlib.Path
        The file to make; its folder exists.

    Raises
    ------
    BuildError
        Where there is no compiler, or it fails.
    """
    if sys.platform == "win32":
        raise BuildError("the kernels are not built on Windows")
    cc = compiler()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder:
        made = Path(folder) / NAME
        try:
            _compile(cc, ("-fopenmp",), Path(folder), made)
        except BuildError:
            _compile(cc, (), Path(folder), made)
        os.replace(made, target)


def _compile(cc: str, openmp: Sequence[str], folder: Path, made: Path) -> None:
    found = variants()
    having = [f"-DWITH_{variant.name.upper()}" for variant in found if variant.flags]
    jobs = [("scratch", "scratch.c", []), ("dispatch", "dispatch.c", having)]
    jobs += [
        (variant.name, "variant.c", [f"-DVARIANT={variant.name}", *variant.flags])
        for variant in found
    ]
    commands = [
        [cc, *FLAGS, *openmp, *flags, "-c", str(SOURCES / source), "-o", str(folder / f"{name}.o")]
        for name, source, flags in jobs
    ]
    _run(commands)
    objects = [str(folder / f"{name}.o") for name, _, _ in jobs]
    _run([[cc, "-shared", "-pthread", *openmp, *objects, "-o", str(made)]])


def _run(commands: Sequence[Sequence[str]]) -> None:
    """Run commands side by side; the first that fails is the error."""
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        for command, process in zip(commands, running, strict=True):
            _, errors = process.communicate(timeout=SECONDS)
            if process.returncode:
                first = next(
                    (line for line in errors.splitlines() if "error" in line), errors[:200]
                )
                raise BuildError(f"{command[0]} failed: {first.strip()}")
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{error.cmd[0]} did not end within {SECONDS} seconds") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; it goes with the process that holds it."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
