"""What was timed, on which machine, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from secateur.errors import FileFormatError, InputError
from secateur.files import replacing
from secateur.machine import processor_name
from secateur.profiling import Timing

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Benchmark", "Line", "Machine"]

FORMAT = "secateur bench 1"


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where times were measured: those of two machines do not compare.

    Attributes
    ----------
    processor : str
    cores : int
        Those that the process may use.
    system : str
    accelerator : str
        Empty without one.
    """

    processor: str
    cores: int
    system: str
    accelerator: str = ""

    @classmethod
    def here(cls) -> Machine:
        """The one that this runs on."""
        allowed = getattr(os, "sched_getaffinity", None)
        return cls(
            processor_name(),
            len(allowed(0)) if allowed is not None else os.cpu_count() or 1,
            f"{platform.system()} {platform.machine()}",
            torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        )

    def __str__(self) -> str:
        plural = "" if self.cores == 1 else "s"
        beside = f", {self.accelerator}" if self.accelerator else ""
        return f"{self.processor}, {self.cores} core{plural}, {self.system}{beside}"


@dataclasses.dataclass(frozen=True)
class Line:
    """One model under one set of conditions.

    Attributes
    ----------
    model, runtime, dtype : str
    batch, threads : int
    samples_ms : tuple of float
        Sample *i* of lines of the same batch and threads was taken in the same round.
    versions : str
        Of the runtime's packages.
    """

    model: str
    runtime: str
    dtype: str
    batch: int
    threads: int
    samples_ms: tuple[float, ...] = dataclasses.field(repr=False)
    versions: str = ""

    @property
    def timing(self) -> Timing:
        """Its samples, with their median and spread."""
        label = f"{self.model}, {self.runtime}, {self.dtype}"
        return Timing(label, self.samples_ms, self.threads, batch=self.batch)

    @property
    def conditions(self) -> tuple[str, str, str, int, int]:
        """What a line of another measurement must have in common to be compared."""
        return self.model, self.runtime, self.dtype, self.batch, self.threads

    @property
    def together(self) -> tuple[int, int]:
        """What lines have in common that took turns."""
        return self.batch, self.threads


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What `secateur.bench.bench` measured.

    Attributes
    ----------
    machine : Machine
    lines : list of Line
        In the order in which they were asked for.
    skipped : list of (str, str)
        What could not be timed, and why.
    """

    machine: Machine
    lines: list[Line]
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def to_json(self) -> str:
        """As text, for `from_json`."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Benchmark:
        """Read what `to_json` made.

        Raises
        ------
        ValueError
            Where the text is something else.
        """
        read = json.loads(text)
        if not isinstance(read, dict) or read.get("format") != FORMAT:
            raise ValueError(f"it is no {FORMAT!r}")
        lines = [
            Line(**{**each, "samples_ms": tuple(map(float, each["samples_ms"]))})
            for each in read["lines"]
        ]
        if not all(line.samples_ms for line in lines):
            raise ValueError("a line has no samples")
        skipped = [(str(name), str(why)) for name, why in read["skipped"]]
        return cls(Machine(**read["machine"]), lines, skipped)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as JSON."""
        with replacing(path) as draft:
            draft.write_text(self.to_json() + "\n", encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Benchmark:
        """Read a file that `save` wrote.

        Raises
        ------
        FileFormatError
            Where it is missing, or no such file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{path} holds no measurements of bench ({error})") from error

    def against(self, earlier: Benchmark) -> dict[Line, float]:
        """How many times as fast lines are as an earlier measurement's of the same conditions.

        Raises
        ------
        InputError
            Where the other was measured on another machine, or has no line in common.
        """
        if earlier.machine != self.machine:
            raise InputError(
                f"times of two machines do not compare: these are of {self.machine}, the others of "
                f"{earlier.machine}; measure both in one run on one machine"
            )
        known = {line.conditions: line for line in earlier.lines}
        found = {
            line: known[line.conditions].timing.median_ms / line.timing.median_ms
            for line in self.lines
            if line.conditions in known
        }
        if not found:
            raise InputError("the two measurements have no model under the same conditions")
        return found

    def fastest(self) -> dict[tuple[int, int], Line]:
        """The fastest line for every batch size and number of threads."""
        best: dict[tuple[int, int], Line] = {}
        for line in self.lines:
            so_far = best.get(line.together)
            if so_far is None or line.timing.median_ms < so_far.timing.median_ms:
                best[line.together] = line
        return best

    def ratio(self, line: Line) -> float:
        """How many times as fast as the first line that took turns with it.

        The median of the ratios round by round: both sides of each saw the same machine.
        """
        first = next(each for each in self.lines if each.together == line.together)
        return first.timing.ratio(line.timing)

    def table(self, earlier: Benchmark | None = None) -> Table:
        """Lay the lines out as a rich table.

        Parameters
        ----------
        earlier : Benchmark, optional
            To compare with, as `against` does.
        """
        from rich.table import Table
        from rich.text import Text

        gains = {} if earlier is None else self.against(earlier)
        table = Table(caption=str(self.machine), caption_justify="left")
        for title in ("model", "runtime", "dtype"):
            table.add_column(title, overflow="fold")
        for title in ("batch", "threads", "ms", "±", "examples/s", "as fast as the first"):
            table.add_column(title, justify="right")
        if earlier is not None:
            table.add_column("as fast as earlier", justify="right")
        fastest = self.fastest()
        previous = None
        for line in self.lines:
            if previous is not None and previous != line.together:
                table.add_section()
            previous = line.together
            timing = line.timing
            cells: list[Any] = [
                line.model, line.runtime, line.dtype, str(line.batch), str(line.threads),
                f"{timing.median_ms:.3g}", f"{timing.spread_ms:.2g}",
                f"{line.batch / timing.median_ms * 1e3:,.0f}", f"{self.ratio(line):.2f}×",
            ]  # fmt: skip
            if earlier is not None:
                cells.append(f"{gains[line]:.2f}×" if line in gains else "")
            table.add_row(
                *map(Text, cells), style="bold" if fastest[line.together] == line else None
            )
        return table

    @property
    def rounds(self) -> str:
        """How many rounds were timed, in words."""
        counts = sorted({len(line.samples_ms) for line in self.lines})
        if not counts:
            return "nothing was timed"
        text = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        noise = statistics.median(
            line.timing.spread_ms / line.timing.median_ms for line in self.lines
        )
        return f"medians of {text} rounds in which all take turns; spread {noise:.0%}"
