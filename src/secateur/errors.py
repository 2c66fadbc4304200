"""Every error that Secateur raises on purpose, and the words it raises them in.

Each message is one clear line: what was wrong, and what to do about it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "BudgetError",
    "CriterionError",
    "EngineError",
    "ExportError",
    "FileFormatError",
    "InputError",
    "MissingExtraError",
    "NothingToPruneError",
    "ParityError",
    "PlanError",
    "RankError",
    "RecipeError",
    "SecateurError",
    "UnknownNameError",
    "WriteError",
    "first_line",
    "require",
    "suggestion",
]


class SecateurError(Exception):
    """Base of every error that Secateur raises on purpose."""


class InputError(SecateurError, ValueError):
    """The model, its example inputs or an argument cannot be used as given."""


class UnknownNameError(SecateurError, LookupError):
    """A name that is not registered or not in the model; the message suggests the nearest."""


class NothingToPruneError(SecateurError):
    """No dimension of the model can be pruned under the given settings."""


class BudgetError(SecateurError, ValueError):
    """The budget is malformed, or cannot be met; the message says how close it gets."""


class CriterionError(SecateurError):
    """A criterion returned something that is not one finite score per unit."""


class PlanError(SecateurError, ValueError):
    """A plan does not fit the model it was applied to, or is malformed."""


class EngineError(SecateurError, RuntimeError):
    """Candidates cannot be evaluated where they were to be: workers die, or none answers."""


class RankError(SecateurError, RuntimeError):
    """Another process of the same run failed, or does something else; every process raises."""


class RecipeError(SecateurError, ValueError):
    """A recipe cannot be carried out as it is written; the message names the line and the key."""


class ParityError(SecateurError):
    """The smaller model does not equal the masked model; the model was restored."""


class FileFormatError(SecateurError, ValueError):
    """A file is truncated, tampered with, or not one of Secateur's."""


class WriteError(SecateurError, OSError):
    """There is no room for a file; what was there before is as it was."""


class ExportError(SecateurError):
    """A model cannot be exported, or the exported file does not compute what the model does."""


class MissingExtraError(SecateurError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or the choices.

    Examples
    --------
    >>> suggestion("magnitud", ["magnitude", "random"])
    "; did you mean 'magnitude'?"
    >>> suggestion("zzz", ["magnitude", "random"])
    '; choose from magnitude, random'
    """
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    if len(choices) <= 12:
        return f"; choose from {', '.join(choices)}"
    return ""


def first_line(error: BaseException) -> str:
    r"""The first line of another library's error, for a message of one line.

    Examples
    --------
    >>> first_line(ValueError("too wide\nat layer 3")), first_line(KeyError())
    ('too wide', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Parameters
    ----------
    module : str
        Dotted module name, for example ``"onnxruntime"``.
    extra : str
        The extra of this package that installs it.

    Raises
    ------
    MissingExtraError
        When the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this needs {module.split('.')[0]!r}, which is not installed: "
            f"pip install 'secateur[{extra}]'"
        ) from error
