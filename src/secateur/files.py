"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from secateur.errors import InputError, WriteError

__all__ = ["append_line", "no_room", "replacing", "storing"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def no_room(error: BaseException | None) -> str | None:
    """What the system says of a full disk, if that is what an error is about.

    Examples
    --------
    >>> no_room(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device'
    >>> no_room(FileNotFoundError("data.txt"))
    """
    if isinstance(error, WriteError):
        return no_room(error.__cause__)
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.strerror or os.strerror(error.errno)
    if isinstance(error, SafetensorError):
        # It comes from Rust, with the system's words and number in its message.
        found = re.search(r"([^:]*) \(os error (\d+)\)", str(error))
        if found is not None and int(found[2]) in _FULL:
            return found[1].strip()
    return None


@contextlib.contextmanager
def storing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one line for which file there is no room.

    Raises
    ------
    WriteError
    """
    try:
        yield
    except WriteError:
        raise
    except (OSError, SafetensorError) as error:
        reason = no_room(error)
        if reason is None:
            raise
        raise WriteError(
            f"{path} cannot be written ({reason}); make room, and do it again"
        ) from error


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Add a line to a file, on the disk when this returns.

    Raises
    ------
    WriteError
        Where there is no room; nothing of the line stays.
    """
    text = f"{line}\n".encode()
    with storing(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            # One call of the system: what several processes write to one file does not mix.
            written = os.write(handle, text)
            if written != len(text):
                end = os.lseek(handle, 0, os.SEEK_CUR)
                if os.fstat(handle).st_size == end:
                    os.ftruncate(handle, end - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        finally:
            os.close(handle)


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
    WriteError
        Where there is no room for it.

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
    with contextlib.ExitStack() as stack:
        stack.enter_context(storing(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix=".secateur-", dir=path.parent)
        )
        draft = Path(folder) / path.name
        draft.touch()
        mode = draft.stat().st_mode
        draft.unlink()
        yield draft
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == draft):
            # Some writers make private files, whatever the user's mask says.
            file.chmod(mode)
            os.replace(file, path.parent / file.name)
