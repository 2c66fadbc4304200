"""Progress bars: one line per step of a longer run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["Steps", "Tick"]

Tick: TypeAlias = Callable[[int, int, str], None]
"""Called as ``tick(done, total, one line about the current state)``."""


class Steps:
    """A list of steps with a bar each, drawn on a console or not at all.

    Parameters
    ----------
    console : rich.console.Console or None
        None draws nothing.

    Examples
    --------
    >>> with Steps(None) as steps, steps.step("Counting") as tick:
    ...     for number in range(3):
    ...         tick(number + 1, 3, f"at {number}")
    """

    def __init__(self, console: Console | None) -> None:
        # Drawing takes processor time from what may be being measured: four times a second do.
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[text]}"),
            console=console or Console(quiet=True),
            disable=console is None,
            refresh_per_second=4,
        )

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, label: str) -> Iterator[Tick]:
        """Show a step while the block runs; the yielded function moves its bar."""
        task = self._progress.add_task(label, total=None, text="")

        def tick(done: int, total: int, text: str = "") -> None:
            self._progress.update(task, completed=done, total=total, text=text)

        yield tick
        self._finish(task)

    def _finish(self, task: TaskID) -> None:
        # A disabled progress keeps no tasks up to date, but it knows them.
        total = self._progress.tasks[self._progress.task_ids.index(task)].total or 1
        self._progress.update(task, completed=total, total=total)
