"""Named choices (criteria, granularities, allocations) that anyone can add to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from secateur.errors import UnknownNameError, suggestion

T = TypeVar("T")

__all__ = ["Registry"]


class Registry(Generic[T]):
    """A table from names to members of one kind.

    Parameters
    ----------
    kind : str
        What the members are, for messages: ``"criterion"``.

    Examples
    --------
    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... class Red: ...
    >>> colours["red"] is Red
    True
    >>> colours["rad"]
    Traceback (most recent call last):
    ...
    secateur.errors.UnknownNameError: unknown colour 'rad'; did you mean 'red'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Register the decorated member under every one of the names."""

        def add(member: T) -> T:
            for name in names:
                if name in self._members:
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
                self._members[name] = member
            return member

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._members[name]
        except KeyError:
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}{suggestion(name, self._members)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
