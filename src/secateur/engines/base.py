"""What an engine is: one piece of work, carried to workers once, done to many tasks."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, TypeAlias

from secateur.errors import InputError
from secateur.registry import Registry

__all__ = ["ATTEMPTS", "ENGINES", "Engine", "Work", "Workers", "as_engine", "count"]

ENGINES: Registry[type[Engine]] = Registry("engine")

# How often one task is begun before its worker's death is taken to be its own fault.
ATTEMPTS = 3

Work: TypeAlias = Callable[[Any], float]
"""What is done to every task; it holds all that tasks share, such as the model."""


class Workers(ABC):
    """Workers that hold one piece of work; a context that ends them."""

    @abstractmethod
    def run(self, tasks: Sequence[Any]) -> Iterator[tuple[int, float]]:
        """Yield ``(index of the task, value)`` of every task, in the order they are done.

        Raises
        ------
        SecateurError
            What the work raised, wherever it ran.
        EngineError
            When workers die again and again.
        """

    def close(self) -> None:
        """End the workers; what they were at is dropped."""

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Engine(ABC):
    """Base of every engine: where work is done.

    The same work and tasks give the same values on every engine.

    Attributes
    ----------
    name : str
        The name in messages.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_text(cls, text: str) -> Engine:
        """Make the engine that is spelled ``name`` or ``name:text``."""

    @abstractmethod
    def start(self, work: Work) -> Workers:
        """Hand the work to the workers.

        Raises
        ------
        InputError
            When the work cannot be sent to other processes.
        EngineError
            When no worker can be had.
        MissingExtraError
        """


def as_engine(engine: str | Engine | None) -> Engine:
    """Return the engine meant by a name, with what follows a colon, or an object.

    Parameters
    ----------
    engine : str, Engine or None
        None and ``"in_process"``: one candidate after the other, in this process.
        ``"processes:4"``: four processes of this machine; without a number, one a core.
        ``"ray"``: the Ray cluster that this machine is part of, or else one of this machine alone;
        ``"ray:4"``: one of this machine alone, with four workers; ``"ray://host:10001"``: that
        cluster, through its Ray client server.

    Raises
    ------
    UnknownNameError
        For an unknown name; the message suggests the nearest.
    InputError
        For anything else.

    Examples
    --------
    >>> as_engine("processes:2").workers
    2
    >>> as_engine("proceses")
    Traceback (most recent call last):
    ...
    secateur.errors.UnknownNameError: unknown engine 'proceses'; did you mean 'processes'?
    """
    if engine is None:
        engine = "in_process"
    if isinstance(engine, str):
        name, _, rest = engine.partition(":")
        return ENGINES[name].from_text(rest)
    if isinstance(engine, Engine):
        return engine
    raise InputError(
        f"engine must be a name, such as 'processes:2', or an Engine, not {type(engine).__name__}"
    )


def count(name: str, workers: object) -> int:
    """A number of workers, checked; the cores that this process may use for None.

    Raises
    ------
    InputError
    """
    if workers is None:
        able = getattr(os, "sched_getaffinity", None)
        return len(able(0)) if able is not None else os.cpu_count() or 1
    if isinstance(workers, str) and workers.isdecimal():
        workers = int(workers)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(
            f"engine {name!r} takes a number of workers, as in '{name}:2', not {workers!r}"
        )
    return workers
