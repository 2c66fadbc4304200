"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from secateur.errors import InputError

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write to a draft, which takes the file's name when the body ends without an error.

    Parameters
    ----------
    path : path-like
        The file to create or replace; its folder is created.

    Yields
    ------
    pathlib.Path
        The draft, alone in a temporary folder on the same disk and under the same name. Files
        written beside it are moved along, before it.

    Raises
    ------
    InputError
        Where the path is a folder.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/notes/a.txt") as draft:
    ...         _ = draft.write_text("whole")
    ...     Path(folder, "notes", "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the name of the file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".secateur-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        draft.touch()
        mode = draft.stat().st_mode
        draft.unlink()
        yield draft
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == draft):
            # Some writers make private files, whatever the user's mask says.
            file.chmod(mode)
            os.replace(file, path.parent / file.name)
