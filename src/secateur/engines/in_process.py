"""One task after the other, in the caller's own process: the default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from secateur.engines.base import ENGINES, Engine, Work, Workers
from secateur.errors import InputError

__all__ = ["InProcess"]


@ENGINES.register("in_process")
class InProcess(Engine):
    """One task after the other, in this process.

    Examples
    --------
    >>> with InProcess().start(lambda task: task**2) as workers:
    ...     list(workers.run([3.0, 2.0]))
    [(0, 9.0), (1, 4.0)]
    """

    name = "in_process"

    @classmethod
    def from_text(cls, text: str) -> Engine:
        if text:
            raise InputError(
                f"engine 'in_process' takes nothing after its name, so {text!r} cannot be set; "
                "several workers are 'processes:2'"
            )
        return cls()

    def start(self, work: Work) -> Workers:
        return _Here(work)


class _Here(Workers):
    def __init__(self, work: Work) -> None:
        self._work = work

    def run(self, tasks: Sequence[Any]) -> Iterator[tuple[int, float]]:
        for index, task in enumerate(tasks):
            yield index, self._work(task)
