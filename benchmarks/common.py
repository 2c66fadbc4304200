"""What the benchmarks share: limits on subprocesses, the machine's name, tables, results."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from secateur.machine import processor_name

__all__ = [
    "DOCS",
    "ROOT",
    "Outcome",
    "heading",
    "machine",
    "markdown_table",
    "run_limited",
    "shape_of",
    "write_results",
]

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "benchmarks"
POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a subprocess ended.

    Attributes
    ----------
    value : dict or None
        What it wrote to its result file.
    failure : str or None
        Why there is no value: ``"time limit"``, ``"memory limit"`` or ``"exit status N"``.
    seconds : float
        Wall time.
    peak_mb : float
        Largest resident memory seen, in MiB; sampled, so a short spike can pass unseen.
    log : str
        Its output, both streams.
    """

    value: dict[str, Any] | None
    failure: str | None
    seconds: float
    peak_mb: float
    log: str


def _resident_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        pass
    return 0.0


def run_limited(
    module: str,
    arguments: Sequence[str],
    *,
    seconds: float,
    memory_gb: float,
    threads: int,
) -> Outcome:
    """Run a Python module in its own process, and end it when it passes a limit.

    It gets the path of its result file, where it leaves JSON, as its last argument.

    Parameters
    ----------
    module : str
        What to run.
    arguments : sequence of str
        Its other arguments.
    seconds : float
        Wall-clock limit.
    memory_gb : float
        Limit on resident memory in GiB.
    threads : int
        Threads of PyTorch and of the libraries below it.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        log_path = Path(folder) / "log.txt"
        start = time.perf_counter()
        failure, peak = None, 0.0
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, str(out)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    peak = max(peak, _resident_mb(process.pid))
                    if time.perf_counter() - start > seconds:
                        failure = "time limit"
                    elif peak > memory_gb * 1024:
                        failure = "memory limit"
                    if failure:
                        break
                    time.sleep(POLL_SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        elapsed = time.perf_counter() - start
        text = log_path.read_text(errors="replace")
        if failure is None and out.exists():
            return Outcome(json.loads(out.read_text()), None, elapsed, peak, text)
        if failure is None:
            failure = f"exit status {process.returncode}"
        return Outcome(None, failure, elapsed, peak, text)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine(threads: int, packages: Iterable[str] = ()) -> dict[str, Any]:
    """Describe where the numbers come from: processor, cores, memory, threads, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    wanted = ("secateur", "torch", *packages)
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": threads,
        "versions": {name: _version(name) for name in wanted},
    }


def heading(where: dict[str, Any]) -> str:
    """Return the machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (
        f"{where['processor']}, {where['cores']} cores, {where['memory_gb']} GB, "
        f"{where['threads']} threads a process; Python {where['python']}, {versions}"
    )


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """Lay rows out as a Markdown table, the first ``left`` columns to the left."""
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join(" --- " if i < left else " ---: " for i in range(len(columns))) + "|",
    ]
    for row in rows:
        cells = ("" if cell is None else str(cell).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shape_of(reason: str) -> str:
    """Take names and numbers out of a reason, so that alike reasons count together.

    Examples
    --------
    >>> shape_of("the code of blocks.3.attn fixes its size")
    'the code of … fixes its size'
    """
    words = []
    for word in reason.split():
        plain = word.strip("'\"`,.;:()[]")
        named = "." in plain or any(c.isdigit() for c in plain)
        words.append(word.replace(plain, "…") if named and plain else word)
    return " ".join(words)


def write_results(name: str, results: dict[str, Any], fragment: str, folder: Path = DOCS) -> None:
    """Write ``NAME.json`` and the Markdown page or fragment ``NAME.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{name}.md").write_text(fragment.rstrip() + "\n")
