"""From a file and a command line to a checked recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from secateur.data import SOURCES, DataOptions
from secateur.errors import RecipeError, SecateurError, suggestion
from secateur.recipes.document import Document, Key, spelled
from secateur.recipes.schema import Recipe
from secateur.recipes.steps import Finetune, StepOptions

__all__ = ["Read", "read_keys", "read_recipe"]

# Data of these is a path.
_PATHS = ("parquet", "folder", "text")


@dataclasses.dataclass(frozen=True)
class Read:
    """A recipe, and where its keys stand."""

    recipe: Recipe
    document: Document

    @contextlib.contextmanager
    def at(self, *key: str | int) -> Iterator[None]:
        """Say of an error which key of the recipe led to it."""
        try:
            yield
        except RecipeError:
            raise
        except SecateurError as error:
            raise RecipeError(
                f"{self.document.where(key)}: {spelled(key)}: {' '.join(str(error).split())}"
            ) from error


def read_recipe(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Read:
    """Read a recipe and check all that can be checked before anything runs.

    Parameters
    ----------
    path : path-like
        A YAML file.
    overrides : iterable of str
        ``key.path=value``, instead of what the file says.

    Raises
    ------
    RecipeError
        For the first thing that is wrong, with its line and key: an unknown key, with the nearest
        one that there is; a wrong type; a name that is not registered; a file that is missing.
    """
    read = read_keys(path, overrides)
    for key, problem in _problems(read.recipe):
        raise RecipeError(f"{read.document.where(key)}: {spelled(key)}: {problem}")
    return read


def read_keys(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Read:
    """Read a recipe without asking for the files that it names; see `read_recipe`."""
    document = Document.read(Path(path))
    for assignment in overrides:
        document.override(assignment)
    document.values.setdefault("name", Path(path).stem)
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        raise _first(document, error) from None
    return Read(recipe, document)


def _first(document: Document, error: ValidationError) -> RecipeError:
    """What is wrong first in the file, and how much more there is."""
    found = sorted(
        error.errors(include_url=False),
        # What is not there has no line: what stands there instead tells more.
        key=lambda each: document.lines.get(tuple(each["loc"]), len(document.lines) + 1),
    )
    first = found[0]
    key = tuple(first["loc"])
    kind, given = first["type"], first.get("input")
    if kind == "extra_forbidden":
        text = f"unknown key{suggestion(str(key[-1]), _known(key[:-1]))}"
    elif kind == "missing":
        text = "this key is missing"
    elif kind == "value_error":
        text = str(first["ctx"]["error"])
    else:
        text = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {given!r}"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    place = f"{spelled(key)}: " if key else ""
    return RecipeError(f"{document.where(key)}: {place}{text}{more}")


def _known(key: Key) -> list[str]:
    """The keys that the mapping there can have."""
    kind: Any = Recipe
    for part in key:
        if isinstance(part, int):
            kind = typing.get_args(kind)[0]
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
            kind = next(each for each in typing.get_args(kind) if each is not type(None))
    return list(kind.model_fields)


def _problems(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """What no single key shows."""
    if recipe.weights is not None and not Path(recipe.weights).expanduser().is_file():
        yield ("weights",), f"there is no file {recipe.weights!r}"
    yield from _data_problems(recipe)
    files: set[str] = set()
    for number, step in enumerate(recipe.steps):
        key = ("steps", number, step.kind)
        if step.options.needs_data and recipe.data is None:
            yield key, "this step needs data; give the recipe a key data"
        yield from _teacher_problems(key, step.options)
        file = getattr(step.options, "file", None)
        if file is None:
            continue
        if Path(file).name != file:
            yield (*key, "file"), f"exports go into the run's folder; give a name, not {file!r}"
        if file in files:
            yield (*key, "file"), f"an earlier step writes {file!r}; give another file"
        files.add(file)


def _teacher_problems(key: Key, options: StepOptions) -> Iterator[tuple[Key, str]]:
    for finetune, at in ((options, key), (getattr(options, "finetune", None), (*key, "finetune"))):
        if isinstance(finetune, Finetune) and finetune.distill is not None:
            number, teacher = int(key[1]) + 1, finetune.distill.teacher
            if teacher >= number:
                yield (
                    (*at, "distill", "teacher"),
                    f"step {number} learns from a model before it: teacher is 0 for the one that "
                    f"the recipe starts with, or an earlier step's number, not {teacher}",
                )


def _data_problems(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    data = recipe.data
    if data is None:
        return
    for part in ("source", "train", "val", "test"):
        spec = getattr(data, part)
        kind, _, path = (spec or "").partition(":")
        if kind in _PATHS and not Path(path).expanduser().exists():
            yield ("data", part), f"there is no file or folder {path!r}"
        if kind not in SOURCES:
            continue
        known = [field.name for field in dataclasses.fields(DataOptions)]
        for name in data.options:
            if name not in known:
                yield ("data", "options", name), f"unknown key{suggestion(name, known)}"
