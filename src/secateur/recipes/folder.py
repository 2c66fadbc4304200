"""The folder of a run: whatever is in it under its final name is whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from secateur.errors import FileFormatError, RecipeError, first_line
from secateur.files import no_room, replacing
from secateur.recipes.document import Key, spelled
from secateur.recipes.schema import Recipe

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["START", "RunFolder", "flat", "writing"]

START = "00-start"
"""The stage of the model as the run begins."""

# Neither changes what comes out.
_FREE = ("name", "engine", "report")


@contextlib.contextmanager
def writing(what: Path) -> Iterator[None]:
    """Say in one line what could not be written, and that nothing done so far is lost.

    Raises
    ------
    RecipeError
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = no_room(error) or getattr(error, "strerror", None) or first_line(error)
        raise RecipeError(
            f"{what} cannot be written ({reason}); make room, and go on with --resume: "
            "finished steps are kept"
        ) from error


class RunFolder:
    """Where a run keeps what it has done.

    Parameters
    ----------
    path : pathlib.Path

    Attributes
    ----------
    exports : pathlib.Path
        Where exports go.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.exports = path / "exports"
        self._stages = path / "stages"

    def open(self, recipe: Recipe, environment: dict[str, str], *, resume: bool) -> None:
        """Begin a run, or go on with one.

        Raises
        ------
        RecipeError
            When there is a run already and it is not to go on, or it is of another recipe.
        """
        written = self.path / "recipe.yaml"
        begun = self.read_stage(START) is not None
        if begun:
            if not resume:
                raise RecipeError(
                    f"{self.path} holds a run already; go on with it with --resume, or give "
                    "another folder with --out"
                )
            self._check_same(written, recipe)
        elif not written.is_file() and any(map(_foreign, self.path.iterdir())):
            raise RecipeError(
                f"{self.path} holds something that is no run; give another folder with --out"
            )
        self._clean()
        with writing(self.path):
            # Nothing of a run that did not get as far as its first stage is worth keeping.
            if not begun:
                self.write_json("environment.json", environment)
                self.write("recipe.yaml", yaml.safe_dump(_values(recipe), sort_keys=False))

    def environment(self) -> dict[str, str]:
        """The environment that the run was begun in."""
        return json.loads((self.path / "environment.json").read_text(encoding="utf-8"))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder; the lock ends with the process that has it.

        Raises
        ------
        RecipeError
            While another process works in it.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise RecipeError(
                        f"another process is at work in {self.path}; wait for it, or give another "
                        "folder with --out"
                    ) from None
                # A network file system without locks: as without fcntl.
            yield
        finally:
            os.close(descriptor)

    def _check_same(self, written: Path, recipe: Recipe) -> None:
        try:
            there = dict(flat(yaml.safe_load(written.read_text(encoding="utf-8"))))
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
            raise RecipeError(f"{written} is no recipe; give another folder with --out") from error
        here = dict(flat(_values(recipe)))
        for key in [*there, *here]:
            if key[0] not in _FREE and there.get(key) != here.get(key):
                raise RecipeError(
                    f"{self.path} is of another recipe: {spelled(key)} is "
                    f"{there.get(key, 'absent')!r} there and {here.get(key, 'absent')!r} here; "
                    "give another folder with --out"
                )

    def _clean(self) -> None:
        """Take away what was being written when the run was killed."""
        for draft in self.path.rglob(".secateur-*"):
            shutil.rmtree(draft, ignore_errors=True)

    def write(self, name: str, text: str) -> Path:
        """Write a text file, whole or not at all."""
        path = self.path / name
        with replacing(path) as draft:
            draft.write_text(text, encoding="utf-8")
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON, whole or not at all."""
        return self.write(name, json.dumps(value, indent=2) + "\n")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """A folder to fill, which becomes the stage when the body ends without an error."""
        self._stages.mkdir(parents=True, exist_ok=True)
        draft = self._stages / f".secateur-{name}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            os.replace(draft, self._stages / name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def read_stage(self, name: str) -> dict[str, Any] | None:
        """What a stage noted of itself; None where it was not finished.

        Raises
        ------
        FileFormatError
            Where it was changed since.
        """
        path = self._stages / name / "stage.json"
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FileFormatError(f"{path} was changed after it was written: {error}") from error

    def weights(self, stage: str) -> Path:
        """The weights that a stage left."""
        return self._stages / stage / "weights.safetensors"

    def journal(self, task: str) -> Path:
        """What a search said of the copies that it tried out."""
        return self.checkpoints(task) / "journal.jsonl"

    def checkpoints(self, task: str) -> Path:
        """Where a task keeps how far it is."""
        folder = self.path / "checkpoints" / task
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder


def _foreign(path: Path) -> bool:
    """Whether it is none of what is there of a run that was killed as it began."""
    return path.name != "environment.json" and not path.name.startswith(".secateur-")


def _values(recipe: Recipe) -> dict[str, Any]:
    """The recipe in plain values, every option written out."""
    values = recipe.model_dump()
    values["steps"] = [{step.kind: step.options.model_dump()} for step in recipe.steps]
    return values


def flat(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value with its key."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, each in items:
        yield from flat(each, (*key, name))
    if not isinstance(value, (dict, list)) or not value:
        yield key, value
