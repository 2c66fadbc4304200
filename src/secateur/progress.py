"""Progress: a bar per step on a terminal, a line per step in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

__all__ = ["Steps", "Tick"]

Tick: TypeAlias = Callable[[int, int | None, str], None]
"""Called as ``tick(done, total, one line about the current state)``."""


class Steps:
    """The steps of a longer run, one after the other.

    Parameters
    ----------
    console : rich.console.Console or None
        A terminal gets bars; anything else gets a line when a step ends; None gets nothing.

    Examples
    --------
    >>> with Steps(None) as steps, steps.step("Counting") as tick:
    ...     for number in range(3):
    ...         tick(number + 1, 3, f"at {number}")
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._bars = _bars(console) if console is not None and console.is_terminal else None

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
        task = None if self._bars is None else self._bars.add_task(label, total=None, text="")

        def tick(done: int, total: int | None, text: str = "") -> None:
            nonlocal latest
            latest = text
            if self._bars is not None and task is not None:
                shown = text if total is not None else f"{text}, {done} so far".lstrip(", ")
                self._bars.update(task, completed=done, total=total, text=shown)

        yield tick
        if self._bars is not None and task is not None:
            self._bars.update(task, completed=1, total=1, text=latest)
        elif self._console is not None:
            seconds = time.perf_counter() - started
            self._console.print(f"{label}: {seconds:.1f} s  {latest}".rstrip(), soft_wrap=True)


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16, table_column=Column(width=16)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn(
            "[dim]{task.fields[text]}",
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
        expand=True,
        # Drawing takes processor time from what may be being measured: four times a second do.
        refresh_per_second=4,
    )
