"""Options within bounds."""

from __future__ import annotations

import math
from typing import Any

from secateur.errors import InputError

__all__ = ["checked"]


def checked(kind: str, name: str, value: Any, *, low: float = 0.0, high: float = math.inf) -> float:
    """A number within bounds, or one clear line.

    Examples
    --------
    >>> checked("l1", "strength", -1)
    Traceback (most recent call last):
    ...
    secateur.errors.InputError: l1: strength must be a number of at least 0, not -1
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        bound = f"of at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise InputError(f"{kind}: {name} must be a number {bound}, not {value!r}")
    return float(value)
