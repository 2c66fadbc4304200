"""``folder:PATH``: a folder of images for every class."""

from __future__ import annotations

from pathlib import Path

import torch

from secateur.errors import InputError

__all__ = ["FolderImages", "read_folder"]

_SUFFIXES = frozenset(
    ".bmp .gif .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split(),
)
_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FolderImages:
    """The images of ``PATH/CLASS/*``, in the order of their names; classes sorted by name.

    Parameters
    ----------
    path : pathlib.Path
    classes : tuple of str
        Known already, from another part; its own by default.

    Raises
    ------
    InputError
        Without a folder for a class, or with one for a class that is not known.
    """

    def __init__(self, path: Path, classes: tuple[str, ...] = ()) -> None:
        own = tuple(sorted(each.name for each in path.iterdir() if _is_class(each)))
        if not own:
            raise InputError(f"{str(path)!r} has no folder for a class in it")
        self.classes = classes or own
        for name in own:
            if name not in self.classes:
                raise InputError(f"{str(path / name)!r} is of a class without training images")
        self._files: list[Path] = []
        labels: list[int] = []
        for name in own:
            files = sorted(
                file
                for file in (path / name).rglob("*")
                if file.suffix.lower() in _SUFFIXES and file.is_file()
            )
            self._files += files
            labels += [self.classes.index(name)] * len(files)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.rows = list(range(len(labels)))
        self.unlabelled: dict[str, str] = {}

    def name(self, index: int) -> str:
        """The file."""
        return str(self._files[index])

    def read(self, index: int) -> bytes:
        """What it holds."""
        return self._files[index].read_bytes()


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def read_folder(argument: str) -> dict[str, FolderImages]:
    """The images of a path, by part where it has the folders ``train``, ``val`` or ``test``.

    Raises
    ------
    InputError
    """
    path = Path(argument).expanduser()
    if not path.is_dir():
        raise InputError(f"there is no folder {str(path)!r}")
    parts = {_PARTS[each.name]: each for each in sorted(path.iterdir()) if each.name in _PARTS}
    if "train" not in parts:
        return {"all": FolderImages(path)}
    train = FolderImages(parts.pop("train"))
    return {"train": train} | {
        part: FolderImages(folder, train.classes) for part, folder in parts.items()
    }
