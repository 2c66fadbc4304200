"""Finding the user's own function from ``package.module:callable``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur.errors import InputError, suggestion

__all__ = ["locate"]


def locate(spec: str, what: str) -> Callable[..., Any]:
    """Import ``package.module:callable``; the working directory is searched as well.

    Parameters
    ----------
    spec : str
        A dotted module, a colon, and the (dotted) name of something that can be called.
    what : str
        What it is for, in messages: ``"model"`` or ``"data"``.

    Raises
    ------
    InputError
        When the module or the name in it cannot be found, or cannot be called.

    Examples
    --------
    >>> locate("collections:OrderedDict", "data").__name__
    'OrderedDict'
    >>> locate("math:squrt", "data")
    Traceback (most recent call last):
    ...
    secateur.errors.InputError: module 'math' has no 'squrt'; did you mean 'sqrt'?
    """
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path):
        raise InputError(f"{what} {spec!r} must be written as package.module:callable")
    # A console script, unlike `python -m`, does not search the working directory.
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except Exception as error:  # an import runs the user's code
        raise InputError(
            f"cannot import {module_name!r} for {what} {spec!r} ({type(error).__name__}: {error})"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    for part in path.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise InputError(
                f"module {module_name!r} has no {path!r}{suggestion(part, dir(value))}"
            ) from None
    if not callable(value):
        raise InputError(f"{spec!r} is a {type(value).__name__}; it must be something to call")
    return value
