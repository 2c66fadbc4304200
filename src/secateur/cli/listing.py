"""``secateur list``: the names that other commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.errors import UnknownNameError, suggestion

if TYPE_CHECKING:
    from rich.console import Console

    from secateur.registry import Registry

__all__ = ["list_names"]


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="criteria, allocations, granularities, schedules, regularizers, models or data; "
            "all of them."
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Argument(help="With models: the names of a library, such as 'timm:resnet*'."),
    ] = None,
) -> None:
    """List what can be chosen from."""
    from rich.table import Table
    from rich.text import Text

    from secateur.cli.opening import consoles

    if kind is not None and kind not in KINDS:
        raise UnknownNameError(f"unknown list {kind!r}{suggestion(kind, KINDS)}")
    console, _ = consoles()
    if kind == "models" and pattern is not None:
        _model_names(console, pattern)
        return
    for name in KINDS if kind is None else [kind]:
        console.print(f"[bold]{name}[/]")
        table = Table(box=None, padding=(0, 2), show_header=False)
        table.add_column(style="green", no_wrap=True)
        table.add_column(style="dim")
        for entry, summary in KINDS[name]():
            table.add_row(Text(entry), Text(summary.replace("``", "").replace("\\", "")))
        console.print(table)


def _criteria() -> list[tuple[str, str]]:
    from secateur.criteria import CRITERIA

    return _methods(CRITERIA)


def _allocations() -> list[tuple[str, str]]:
    from secateur.allocation import ALLOCATIONS

    return _methods(ALLOCATIONS)


def _granularities() -> list[tuple[str, str]]:
    from secateur.granularity import GRANULARITIES
    from secateur.sparsity import ROWS
    from secateur.specs import cited

    whole = [GRANULARITIES[name] for name in GRANULARITIES]
    zeros = [(row.name, f"zeros: {cited(row.summary, row.source)}") for row in ROWS.values()]
    return [*((row.name, cited(row.summary, row.source)) for row in whole), *zeros]


def _schedules() -> list[tuple[str, str]]:
    from secateur.schedules import DYNAMICS, SCHEDULES

    # Two tables, one list: how much at which step, and what moves the zeros while training.
    return [*_methods(SCHEDULES), *_methods(DYNAMICS)]


def _regularizers() -> list[tuple[str, str]]:
    from secateur.regularizers import REGULARIZERS

    return _methods(REGULARIZERS)


def _methods(registry: Registry[type[Any]]) -> list[tuple[str, str]]:
    from secateur.specs import catalogue, cited

    known = catalogue(registry)
    return [(", ".join(each.names), cited(each.summary, each.source)) for each in known]


def _models() -> list[tuple[str, str]]:
    from secateur.models import SOURCES

    known = [(SOURCES[name].form, SOURCES[name].summary) for name in SOURCES]
    return [*known, ("package.module:callable", "a function of yours that returns a module")]


def _data() -> list[tuple[str, str]]:
    from secateur.data import SOURCES

    known = [(SOURCES[name].form, SOURCES[name].summary) for name in SOURCES]
    return [*known, ("package.module:callable", "a function of yours")]


def _model_names(console: Console, pattern: str) -> None:
    from secateur.models import model_names

    prefix, _, rest = pattern.partition(":")
    for name in model_names(prefix, rest or "*"):
        console.print(f"{prefix}:{name}")


KINDS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "criteria": _criteria,
    "allocations": _allocations,
    "granularities": _granularities,
    "schedules": _schedules,
    "regularizers": _regularizers,
    "models": _models,
    "data": _data,
}
