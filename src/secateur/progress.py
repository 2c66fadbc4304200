"""Progress: a bar per step on a terminal, lines in a log; both say how much time is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

__all__ = ["Steps", "Tick", "duration"]

EVERY = 10.0
"""Seconds between the lines of one step in a log."""
SHORT = 2.0
"""Seconds up to which a step is not worth a line."""

Tick: TypeAlias = Callable[[int, int | None, str], None]
"""Called as ``tick(done, total, one line about the current state)``."""


class Steps:
    """The steps of a longer run, one after the other.

    Parameters
    ----------
    console : rich.console.Console or None
        A terminal gets bars; anything else a line when a step ends, and one every ten seconds in
        it. None and a quiet console get nothing.
    shortest : float, optional
        Seconds that a step must take to get a line; 2 by default.

    Examples
    --------
    >>> with Steps(None) as steps, steps.step("Counting") as tick:
    ...     for number in range(3):
    ...         tick(number + 1, 3, f"at {number}")
    """

    def __init__(self, console: Console | None, shortest: float | None = None) -> None:
        self._shortest = SHORT if shortest is None else shortest
        self._console = None if console is None or console.quiet else console
        shown = self._console is not None and self._console.is_terminal
        self._bars = _bars(self._console) if shown and self._console is not None else None

    def __enter__(self) -> Steps:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars is None:
            return
        for task in self._bars.tasks:
            # The bar of a step that failed would go on standing there, half full.
            self._bars.update(task.id, visible=task.finished)
        self._bars.stop()

    @contextmanager
    def step(self, label: str) -> Iterator[Tick]:
        """Show a step while the block runs; the yielded function tells how far it is."""
        started, latest = time.perf_counter(), ""
        said = started
        task = None if self._bars is None else self._bars.add_task(label, total=None, text="")

        def tick(done: int, total: int | None, text: str = "") -> None:
            nonlocal latest, said
            latest = text
            now = time.perf_counter()
            if self._bars is not None and task is not None:
                shown = text if total is not None else f"{text}, {done} so far".lstrip(", ")
                self._bars.update(task, completed=done, total=total, text=shown)
            elif self._console is not None and now - said >= EVERY:
                said = now
                self._console.print(_line(label, done, total, text, now - started), soft_wrap=True)

        yield tick
        if self._bars is not None and task is not None:
            self._bars.update(task, completed=1, total=1, text=latest)
        elif self._console is not None:
            seconds = time.perf_counter() - started
            if seconds < self._shortest:
                return
            self._console.print(f"{label}: {seconds:.1f} s  {latest}".rstrip(), soft_wrap=True)


def duration(seconds: float) -> str:
    """A time as people say it.

    Examples
    --------
    >>> duration(8.4), duration(200), duration(8000)
    ('8 s', '3 min', '2.2 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _line(label: str, done: int, total: int | None, text: str, seconds: float) -> str:
    """How far a step is, for a log."""
    if total is None:
        return f"{label}: {done} so far  {text}".rstrip()
    left = "" if not 0 < done < total else f", {duration(seconds / done * (total - done))} left"
    return f"{label}: {done}/{total}{left}  {text}".rstrip()


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16, table_column=Column(width=16)),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
        TextColumn(
            "[dim]{task.fields[text]}",
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
        expand=True,
        # Drawing takes processor time from what may be being measured: four times a second do.
        refresh_per_second=4,
    )
