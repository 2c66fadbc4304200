"""A YAML file that knows on which line each of its keys stands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import yaml

from secateur.errors import RecipeError, suggestion

__all__ = ["Document", "Key", "spelled"]

Key: TypeAlias = tuple[str | int, ...]
"""Where a value stands: names, and places in lists counted from 0."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and truth values.

    In YAML 1.1, which PyYAML reads, 2:4 is the number 124, 1e-3 is a text, and no is false.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, rule) for tag, rule in rules if not tag.endswith((":int", ":float", ":bool"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _tag, _rule, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_rule})$"), list(_first)
    )


@dataclasses.dataclass
class Document:
    """The values of a file, and where they stand.

    Attributes
    ----------
    name : str
        The file, for messages.
    values : dict
    lines : dict of Key to int
        Counted from 1.
    overridden : set of Key
        What the command line says instead.
    """

    name: str
    values: dict[str, Any]
    lines: dict[Key, int]
    overridden: set[Key] = dataclasses.field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file.

        Raises
        ------
        RecipeError
            Where there is none, or it is no YAML mapping, or a key stands in it twice.
        """
        if not path.is_file():
            raise RecipeError(f"there is no recipe {str(path)!r}")
        try:
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path} is not UTF-8 text ({error.reason})") from error

    @classmethod
    def parse(cls, text: str, name: str) -> Document:
        """Read a text; see `read`."""
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines = {} if node is None else dict(_lines(node, (), name))
            values = None if node is None else loader.construct_document(node)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            at = f":{mark.line + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or str(error)
            said = " ".join(problem.split())
            raise RecipeError(f"{name}{at}: this is no YAML: {said}") from error
        finally:
            loader.dispose()
        if not isinstance(values, dict):
            raise RecipeError(f"{name}: a recipe is a mapping with name, model and steps")
        return cls(name, values, lines)

    def where(self, key: Key) -> str:
        """File and line of a key, or of what it stands in."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.overridden:
                return "the command line"
            if key[:end] in self.lines:
                return f"{self.name}:{self.lines[key[:end]]}"
        return self.name

    def override(self, assignment: str) -> None:
        """Take ``key.path=value`` instead of what the file says; the value is read as YAML.

        Steps are counted from 1, and may be named where there is one such step:
        ``steps.2.finetune.epochs=5``, ``steps.finetune.epochs=5``.

        Raises
        ------
        RecipeError
        """
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise RecipeError(f"write an override as key.path=value, not {assignment!r}")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise RecipeError(f"{assignment!r}: the value is no YAML") from error
        _write_out(self.values)
        key: Key = ()
        place: Any = self.values
        parent: Any = place
        last: str | int = path
        for part in path.split("."):
            if isinstance(place, list):
                index = _index(assignment, place, part)
                # A step that is called by its name is gone into; by its number, it is meant itself.
                own: Key = (index,) if part.isdecimal() else (index, part)
            elif isinstance(place, dict):
                own = (part,)
            else:
                raise RecipeError(f"{assignment!r}: there is nothing to put {part!r} into")
            for each in own:
                parent, last = place, each
                if isinstance(parent, dict) and parent.get(each) is None:
                    parent[each] = {}
                place = parent[each]
            key += own
        parent[last] = value
        self.overridden.add(key)


def _write_out(values: dict[str, Any]) -> None:
    """Write what stands in its short form at length, so that there is a place for each option."""
    for name in ("model", "data"):
        if isinstance(values.get(name), str):
            values[name] = {"source": values[name]}
    if isinstance(values.get("report"), bool):
        values["report"] = {"enabled": values["report"]}
    steps = values.get("steps")
    if isinstance(steps, list):
        values["steps"] = [{step: {}} if isinstance(step, str) else step for step in steps]


def _index(assignment: str, steps: list[Any], part: str) -> int:
    """The place in a list that a part of a path means."""
    if part.isdecimal() and 1 <= int(part) <= len(steps):
        return int(part) - 1
    kinds = [next(iter(each), "") if isinstance(each, dict) else "" for each in steps]
    numbers = [at for at, kind in enumerate(kinds) if kind == part]
    if len(numbers) == 1:
        return numbers[0]
    if numbers:
        written = ", ".join(str(at + 1) for at in numbers)
        raise RecipeError(
            f"{assignment!r}: there are several steps {part!r}; name one by its number: {written}"
        )
    raise RecipeError(
        f"{assignment!r}: there is no {part!r} among 1 to {len(steps)}{suggestion(part, kinds)}"
    )


def spelled(key: Sequence[str | int]) -> str:
    """A key as an override would write it: ``steps.1.prune.budget``.

    Examples
    --------
    >>> spelled(("steps", 0, "prune", "budget"))
    'steps.1.prune.budget'
    """
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in key)


def _lines(node: yaml.Node, key: Key, name: str) -> Iterator[tuple[Key, int]]:
    """The line of every key; those of one mapping are different."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for own, value in node.value:
            at, line = (*key, str(own.value)), own.start_mark.line + 1
            if own.value in seen:
                raise RecipeError(f"{name}:{line}: {spelled(at)} stands here a second time")
            seen.add(own.value)
            yield at, line
            yield from _lines(value, at, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), value.start_mark.line + 1
            yield from _lines(value, (*key, index), name)
