"""How examples are read, prepared and augmented."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

from secateur.errors import InputError, UnknownNameError, suggestion

__all__ = ["DataOptions"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of a source of data; each source takes some of them.

    Parameters
    ----------
    seed : int
        Of the split into parts, where the source makes one.
    val : float
        Share of the training part that is held out for validation, where there is a test part but
        no validation part.
    size : int, optional
        Height and width in pixels: the shorter side is resized to it, and the middle cut out. As
        they are by default; then all must have one size.
    channels : {1, 3}
        Grey or RGB.
    mean, std : sequence of float, optional
        Of the pixels from 0 to 1, per channel: subtracted, and divided by. ImageNet's by default,
        and 0 and 1 for grey images.
    crop : int or "resized", optional
        Augmentation: a random place after padding by so many pixels, or a random part of 8 to
        100 % of the area, resized. Needs torchvision.
    flip : bool
        Augmentation: mirror every other image, left to right. Needs torchvision.
    length : int
        Of a sequence of text, in tokens.
    tokenizer : str, optional
        A ``tokenizer.json``; bytes are the tokens by default.
    workers : int
        Processes that read and augment; with 0 this one does. The examples are the same.
    strict : bool
        A bad image or row is an error, rather than left out and counted.

    Raises
    ------
    InputError
        For values that cannot be meant.

    Examples
    --------
    >>> DataOptions(channels=1).scaling
    ((0.0,), (1.0,))
    """

    seed: int = 0
    val: float = 0.1
    size: int | None = None
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: int | Literal["resized"] | None = None
    flip: bool = False
    length: int = 128
    tokenizer: str | None = None
    workers: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.val < 1:
            raise InputError(f"val is the share held out for validation, 0 to 1, not {self.val}")
        for name in ("size", "length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if self.channels not in (1, 3):
            raise InputError(f"channels must be 1 (grey) or 3 (RGB), not {self.channels}")
        if self.workers < 0:
            raise InputError(f"workers must be at least 0, not {self.workers}")
        if self.crop == "resized" and self.size is None:
            raise InputError("crop='resized' needs the size to resize to: give size= as well")
        if self.crop not in (None, "resized") and not (
            isinstance(self.crop, int) and self.crop >= 0
        ):
            raise InputError(f"crop must be a padding in pixels or 'resized', not {self.crop!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is None:
                continue
            if len(value) != self.channels:
                raise InputError(
                    f"{name} needs one number for each of {self.channels} channels, not {value}"
                )
            object.__setattr__(self, name, tuple(float(each) for each in value))
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"std must be positive, not {self.std}")

    @property
    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel."""
        grey = self.channels == 1
        mean, std = ((0.0,), (1.0,)) if grey else (_MEAN, _STD)
        return self.mean or mean, self.std or std

    @classmethod
    def read(cls, source: str, given: Mapping[str, Any], takes: Collection[str]) -> DataOptions:
        """Options for a source, of which it has to take all that are given.

        Raises
        ------
        UnknownNameError
            For an option that there is not.
        InputError
            For one that this source does not take.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name, value in given.items():
            if name not in known:
                raise UnknownNameError(f"unknown data option {name!r}{suggestion(name, known)}")
            if name not in takes and value != getattr(cls, name):
                raise InputError(f"data {source!r} takes no option {name!r}; remove it")
        return cls(**given)
