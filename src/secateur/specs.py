"""Registered members from one line of text: ``name`` or ``name:option=value,option=value``.

The same line serves Python, the command line, recipes and the settings kept in a plan.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.registry import Registry

T = TypeVar("T")

__all__ = ["Entry", "Spelled", "build", "catalogue", "cited", "options", "source", "spec"]

ARXIV = r"arXiv:\d{4}\.\d{4,5}"
AUTHORS = r"[A-Z][\w-]+(?:, [A-Z][\w-]+)*(?: and [A-Z][\w-]+| et al\.)"
# "Hu et al. 2016 (arXiv:1607.03250)", "Zhuang et al., NeurIPS 2020", or the bare number.
PAPER = re.compile(rf"({AUTHORS},?(?: [A-Z]\w+)? \d{{4}})(?:[ ,(]+({ARXIV}))?|({ARXIV})")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One registered member, for listings.

    Attributes
    ----------
    names : tuple of str
        Every name it is registered under, the main one first.
    summary : str
        First line of its docstring.
    options : dict
        Its options with their defaults.
    source : str
        The paper that its docstring cites first; see `source`.
    """

    names: tuple[str, ...]
    summary: str
    options: dict[str, Any]
    source: str = ""


def options(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a factory with their defaults."""
    parameters = inspect.signature(factory).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def build(registry: Registry[type[T]], text: str) -> T:
    """Make the member that a line of text names.

    Parameters
    ----------
    registry : Registry
        Table of classes.
    text : str
        ``"name"`` or ``"name:option=value,option=value"``.

    Raises
    ------
    UnknownNameError
        For an unknown name or option; the message suggests the nearest.
    InputError
        For an option without a value, or a value that the member refuses.

    Examples
    --------
    >>> from secateur.criteria import CRITERIA
    >>> build(CRITERIA, "taylor:reduction=square_of_sum,view=producer").view
    'producer'
    """
    name, _, rest = text.partition(":")
    factory = registry[name.strip()]
    known = options(factory)
    given: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InputError(f"{registry.kind} {text!r}: write options as name=value, not {part!r}")
        if option not in known:
            raise UnknownNameError(
                f"{registry.kind} {name!r} has no option {option!r}" + suggestion(option, known)
                if known
                else f"{registry.kind} {name!r} takes no options, so {part!r} cannot be set"
            )
        given[option] = _value(value)
    return factory(**given)


def spec(member: object, name: str) -> str:
    """Return the line of text that builds an equal member: `build` read backwards.

    Examples
    --------
    >>> from secateur.criteria import Taylor
    >>> spec(Taylor(view="consumer"), "taylor")
    'taylor:view=consumer'
    """
    changed = [
        f"{option}={getattr(member, option)}"
        for option, default in options(type(member)).items()
        if getattr(member, option) != default
    ]
    return name + (":" + ",".join(changed) if changed else "")


class Spelled:
    """Base of registered members: each says the line of text that builds it again.

    Attributes
    ----------
    name : str
        The name in messages and plans.
    """

    name: ClassVar[str]

    @property
    def spec(self) -> str:
        """The line of text that builds an equal one."""
        return spec(self, self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r})"


def catalogue(registry: Registry[type[T]]) -> list[Entry]:
    """Return every registered member with its names, first line of documentation and options.

    Examples
    --------
    >>> from secateur.criteria import CRITERIA
    >>> [entry.names for entry in catalogue(CRITERIA)][:2]
    [('apoz',), ('bn_scale',)]
    """
    names: dict[type[T], list[str]] = {}
    for name in registry:
        names.setdefault(registry[name], []).append(name)
    entries = [
        Entry(
            tuple(known),
            (inspect.getdoc(member) or "").partition("\n")[0],
            options(member),
            source(inspect.getdoc(member) or ""),
        )
        for member, known in names.items()
    ]
    return sorted(entries, key=lambda entry: entry.names)


def source(text: str) -> str:
    """Return the paper that a docstring cites first; empty where it cites none.

    Examples
    --------
    >>> source("Zeros count. Hu et al. 2016 (arXiv:1607.03250), at the first activation.")
    'Hu et al. 2016, arXiv:1607.03250'
    """
    found = PAPER.search(" ".join(text.split()))
    return ", ".join(filter(None, found.groups())) if found else ""


def cited(summary: str, paper: str) -> str:
    """Return a summary that names its paper, in brackets at its end unless it does already.

    Examples
    --------
    >>> cited("Kept as they are.", "arXiv:1506.02626")
    'Kept as they are (arXiv:1506.02626).'
    """
    if not paper or paper in summary or source(summary):
        return summary
    stop = "." if summary.endswith(".") else ""
    return f"{summary.removesuffix('.')} ({paper}){stop}"


def _value(text: str) -> Any:
    lowered = text.lower()
    if lowered in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[lowered]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
