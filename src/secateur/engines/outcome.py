"""What comes back from a worker: a value, or an error that reads as if it arose here."""

from __future__ import annotations

import dataclasses
import traceback
from typing import Any

from secateur import errors
from secateur.engines.base import Work
from secateur.errors import EngineError, first_line

__all__ = ["Outcome", "attempt", "failed"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one task.

    Attributes
    ----------
    value : float
    kind : str
        Class of the error; empty where there was none.
    message, trace : str
        Of the error, and where in the worker it arose.
    """

    value: float = 0.0
    kind: str = ""
    message: str = ""
    trace: str = ""

    def get(self) -> float:
        """The value.

        Raises
        ------
        SecateurError
            What arose in the worker, with its traceback as the cause.
        """
        if not self.kind:
            return self.value
        kind = getattr(errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, errors.SecateurError):
            raise kind(self.message) from _InWorker(self.trace)
        raise EngineError(
            f"a worker raised {self.kind}: {first_line(Exception(self.message))}"
        ) from _InWorker(self.trace)


class _InWorker(Exception):
    """The traceback of another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def failed(error: Exception) -> Outcome:
    """The outcome of a task that raised."""
    trace = "".join(traceback.format_exception(error))
    return Outcome(kind=type(error).__name__, message=str(error), trace=trace)


def attempt(work: Work, task: Any) -> Outcome:
    """Do the work to a task.

    Examples
    --------
    >>> attempt(float, "2"), attempt(float, "two").kind
    (Outcome(value=2.0, kind='', message='', trace=''), 'ValueError')
    """
    try:
        return Outcome(work(task))
    except Exception as error:  # the user's code; it is told to who asked
        return failed(error)
