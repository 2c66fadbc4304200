"""Cells of a long measurement, on record as soon as they are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

__all__ = ["Record"]

Key = TypeVar("Key")


class Record(Generic[Key]):
    """Measured cells as JSON lines, the first of which says how they were measured.

    Parameters
    ----------
    path : Path
    head : dict
        Settings and machine: a record of other settings or versions is not gone on with.
    key_of : callable
        Which cell a record belongs to.
    resume : bool
        Go on with what is there.
    """

    def __init__(
        self,
        path: Path,
        head: dict[str, Any],
        key_of: Callable[[dict[str, Any]], Key],
        resume: bool,
    ) -> None:
        self.path, self.head, self._key_of = path, head, key_of
        self.cells: dict[Key, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        # What follows the last line end was being written when the run was ended.
        whole = path.read_text().rpartition("\n")[0] if resume and path.exists() else ""
        first, *lines = whole.splitlines() or [json.dumps(head)]
        self.head = json.loads(first)
        if _alike(self.head) != _alike(head):
            raise SystemExit(
                f"{path} was measured with other settings or versions; pass --no-resume to start "
                "anew, or --record to leave it"
            )
        for line in lines:
            record = json.loads(line)
            self.cells[key_of(record)] = record
        path.write_text("\n".join([first, *lines]) + "\n")

    def add(self, record: dict[str, Any]) -> None:
        self.cells[self._key_of(record)] = record
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _alike(head: dict[str, Any]) -> tuple[Any, Any]:
    """What must not change within a record."""
    return head["settings"], head["machine"]["versions"]
