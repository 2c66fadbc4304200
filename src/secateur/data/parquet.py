"""``parquet:PATH``: images and labels in the schema of Hugging Face's data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.data.parting import files_by_part
from secateur.errors import FileFormatError, InputError, first_line, require

__all__ = ["ParquetImages", "read_parquet"]

_IMAGES = ("img", "image")
_LABELS = ("label", "labels", "fine_label")


class ParquetImages:
    """The rows of one or several files, held in memory as they are: encoded.

    Raises
    ------
    FileFormatError
        For a file that is no parquet file.
    InputError
        For one without images or labels under the usual names.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._images: list[Any] = []
        self._at: list[tuple[Path, int]] = []
        self.classes: tuple[str, ...] = ()
        # Rows without a label, by name.
        self.unlabelled: dict[str, str] = {}
        labels: list[np.ndarray] = []
        self._starts = [0]
        for path in paths:
            images, found, classes = _columns(path)
            self.classes = self.classes or classes
            self._images.append(images)
            self._at.append((path, len(found)))
            self._starts.append(self._starts[-1] + len(found))
            labels.append(found)
        self.labels = torch.from_numpy(np.concatenate(labels))
        self.rows = (self.labels != _MISSING).nonzero().flatten().tolist()
        for index in (self.labels == _MISSING).nonzero().flatten().tolist():
            self.unlabelled[self.name(index)] = "it has no label"

    def __len__(self) -> int:
        return self._starts[-1]

    def _place(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - self._starts[file]

    def name(self, index: int) -> str:
        """File and row, counted from 0."""
        file, row = self._place(index)
        return f"{self._at[file][0]} row {row}"

    def read(self, index: int) -> bytes:
        """The encoded image of a row, or of the file that the row names."""
        file, row = self._place(index)
        value = self._images[file][row].as_py()
        if isinstance(value, bytes):
            return value
        if not value or not (value.get("bytes") or value.get("path")):
            raise InputError("it has no image")
        return value.get("bytes") or (self._at[file][0].parent / value["path"]).read_bytes()


_MISSING = np.iinfo(np.int64).min


def _columns(path: Path) -> tuple[Any, np.ndarray, tuple[str, ...]]:
    """Images, labels and names of the classes."""
    parquet = require("pyarrow.parquet", "data")
    arrow = require("pyarrow", "data")
    if not path.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        schema = parquet.read_schema(path)
        image, label = (_column(path, schema, names) for names in (_IMAGES, _LABELS))
        table = parquet.read_table(path, columns=[image, label])
    except (arrow.ArrowException, OSError) as error:
        raise FileFormatError(
            f"{path} is truncated or is not a parquet file ({first_line(error)})"
        ) from error
    column = table.column(label)
    if not arrow.types.is_integer(column.type):
        raise InputError(f"{path}: column {label!r} must hold class indices, not {column.type}")
    missing = arrow.scalar(int(_MISSING), arrow.int64())
    labels = column.cast(arrow.int64()).fill_null(missing).to_numpy()
    return table.column(image), np.array(labels, dtype=np.int64), _classes(schema, label)


def _column(path: Path, schema: Any, names: tuple[str, ...]) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise InputError(
        f"{path} has no column {' or '.join(map(repr, names))}; it has {', '.join(schema.names)}"
    )


def _classes(schema: Any, label: str) -> tuple[str, ...]:
    """The class names that Hugging Face's metadata holds."""
    try:
        text = (schema.metadata or {})[b"huggingface"]
        return tuple(map(str, json.loads(text)["info"]["features"][label]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def read_parquet(argument: str) -> dict[str, ParquetImages]:
    """The files of a path, by part; one file, or files whose names tell nothing, as ``"all"``.

    Raises
    ------
    InputError, FileFormatError, MissingExtraError
    """
    path = Path(argument).expanduser()
    if not path.is_dir():
        return {"all": ParquetImages([path])}
    files = list(path.glob("*.parquet"))
    if not files:
        raise InputError(f"there is no .parquet file in the folder {str(path)!r}")
    return {part: ParquetImages(paths) for part, paths in files_by_part(files).items()}
