"""Values that are known already, kept in a file so that a search can go on where it ended."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from secateur.errors import FileFormatError, InputError
from secateur.files import append_line

__all__ = ["Journal"]

FORMAT = 1


class Journal:
    """Values by key, in a file of JSON lines.

    The first line says what the values are of, every other one is a key with its value, appended
    at once and whole. A line that was cut short, as when a machine went down, is dropped.

    Parameters
    ----------
    path : path-like
        Created, with its folder, where there is none.
    about : dict of str
        What the values are of: as in the file, where there is one.

    Raises
    ------
    InputError
        When the file is about something else.
    FileFormatError
        When it is no journal.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Journal(f"{folder}/a.jsonl", {"model": "x"}).add("key", 0.5)
    ...     dict(Journal(f"{folder}/a.jsonl", {"model": "x"}))
    {'key': 0.5}
    """

    def __init__(self, path: str | os.PathLike[str], about: dict[str, str]) -> None:
        self.path, self.about = Path(path), about
        self._values: dict[str, float] = {}
        if self.path.is_dir():
            raise InputError(f"journal {str(path)!r} is a folder; give the name of a file")
        if self.path.exists() and self.path.stat().st_size:
            self._read()
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"secateur": "journal", "format": FORMAT, **about})

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> float:
        return self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> list[str]:
        """Every key, in the order of the file."""
        return list(self._values)

    def add(self, key: str, value: float) -> None:
        """Note a value; it is on the disk when this returns."""
        if key not in self._values:
            self._append({"key": key, "value": value})
            self._values[key] = value

    def _append(self, entry: dict[str, Any]) -> None:
        append_line(self.path, json.dumps(entry))

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            first, *lines = (json.loads(line) for line in whole.splitlines())
            known = first["secateur"] == "journal" and first["format"] == FORMAT
            found = {name: first[name] for name in self.about}
            values = {str(line["key"]): float(line["value"]) for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(self._foreign()) from error
        if not known or not all(map(math.isfinite, values.values())):
            raise FileFormatError(self._foreign())
        for name, value in self.about.items():
            if found[name] != value:
                raise InputError(
                    f"journal {str(self.path)!r} is of another {name} ({found[name]}, not "
                    f"{value}): what it knows does not hold here; name another file, or delete it"
                )
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        self._values = values

    def _foreign(self) -> str:
        return (
            f"{str(self.path)!r} is not a journal that this version wrote; name another file, "
            "or delete it"
        )
