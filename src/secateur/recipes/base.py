"""What every part of a recipe has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from secateur.errors import SecateurError

__all__ = ["Entry", "named"]

T = TypeVar("T")


class Entry(BaseModel):
    """A mapping of a recipe: unknown keys and other types than those named are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def named(look_up: Callable[[Any], T], value: Any) -> T:
    """Look a name up as the functions do, with what they say as an error of this key.

    Raises
    ------
    ValueError
    """
    try:
        return look_up(value)
    except SecateurError as error:
        # pydantic gathers ValueErrors only, and a name that is unknown is a LookupError.
        raise ValueError(str(error)) from error
