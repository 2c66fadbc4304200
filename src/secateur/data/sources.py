"""From the name of a data set, as written on a command line or in a recipe, to the data."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from secateur.data.digits import DIGITS_SIZE, load_digits
from secateur.data.folder import FolderImages, read_folder
from secateur.data.images import Pixels
from secateur.data.lazy import Bad, ImagePart
from secateur.data.loaders import as_part
from secateur.data.options import DataOptions
from secateur.data.parquet import ParquetImages, read_parquet
from secateur.data.parting import HELD_OUT, stratified
from secateur.data.splits import Data, Part, Split, held_out
from secateur.data.text import read_text
from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.locate import locate
from secateur.registry import Registry

__all__ = ["SOURCES", "Source", "as_data", "load_data", "load_part"]

_WHOLE = "all"
_IMAGE_OPTIONS = "seed val size channels mean std crop flip workers strict".split()


@dataclasses.dataclass(frozen=True)
class Source:
    """Where data comes from.

    Attributes
    ----------
    form : str
        How it is written.
    summary : str
    read : callable
        ``read(spec, argument, options, asked)`` returns parts by name and the names of the
        classes; ``asked`` is the one part that is wanted, whole, or None for all.
    takes : sequence of str
        The options that it looks at.
    """

    form: str
    summary: str
    read: Callable[[str, str, DataOptions, str | None], tuple[dict[str, Part], tuple[str, ...]]]
    takes: tuple[str, ...]


SOURCES: Registry[Source] = Registry("data source")


def load_data(spec: str, *, seed: int = 0, **options: Any) -> Data:
    """Load the data that a short specification names.

    Parameters
    ----------
    spec : str
        ``digits`` (scikit-learn's handwritten digits; ``digits:8`` for 8 x 8 pixels);
        ``parquet:PATH``, a file or a folder in the schema of Hugging Face's image data sets;
        ``folder:PATH``, with a folder of images for every class; ``text:PATH``, a text file; or
        ``package.module:callable`` for a function that returns a `Data` or a mapping of
        ``"train"`` and optionally ``"val"`` and ``"test"`` to pairs of inputs and labels or
        DataLoaders.
    seed : int
        Seed of the split into parts, where the source makes one.
    **options
        Of `DataOptions`, those that the source takes; a function takes its own.

    Returns
    -------
    Data
        Images or text in one piece are cut into 70, 15 and 15 % (text: 90, 5 and 5 %); of a
        training part without a validation part, ``val`` is held out: what is chosen by is never
        the test part. A function's missing test part is its validation part.

    Raises
    ------
    UnknownNameError
        For a source or an option that does not exist; the message suggests the nearest.
    InputError
        When the callable cannot be imported, raises, or returns something else; for a path that
        does not exist, or holds no example.
    FileFormatError, MissingExtraError

    Examples
    --------
    >>> load_data("digits:8").name
    'digits'
    >>> load_data("digit")
    Traceback (most recent call last):
    ...
    secateur.errors.UnknownNameError: unknown data source 'digit'; did you mean 'digits'?
    """
    source = _source(spec)
    if source is None:
        return _from_callable(spec, options, seed)
    found, classes = _read(source, spec, None, {**options, "seed": seed})
    name = "digits" if spec.startswith("digits:") else spec
    return as_data(name, {**found, "classes": classes})


def load_part(spec: str, part: str, *, seed: int = 0, **options: Any) -> Part:
    """Load one part of a data set: ``"train"``, ``"val"`` or ``"test"``.

    Images and text that come in one piece are taken whole.

    Parameters
    ----------
    spec, seed, **options
        As for `load_data`.
    part : str

    Raises
    ------
    InputError
        When the data set has no such part, and where `load_data` raises.

    Examples
    --------
    >>> len(load_part("digits:8", "test"))
    270
    """
    source = _source(spec)
    if source is None:
        data = _from_callable(spec, options, seed)
        return {"train": data.train, "val": data.val, "test": data.test}[part]
    found, _ = _read(source, spec, part, {**options, "seed": seed})
    if part not in found:
        raise InputError(f"data {spec!r} has no {part} part; it has {', '.join(found)}")
    return found[part]


def _source(spec: str) -> Source | None:
    """Where a data set comes from; None for a function."""
    name, _, argument = spec.partition(":")
    if name in SOURCES:
        return SOURCES[name]
    if argument and not difflib.get_close_matches(name, SOURCES, n=1):
        return None
    raise UnknownNameError(
        f"unknown data source {name!r}{suggestion(name, [*SOURCES, 'package.module:callable'])}"
    )


def _read(
    source: Source, spec: str, part: str | None, options: dict[str, Any]
) -> tuple[dict[str, Part], tuple[str, ...]]:
    name, _, argument = spec.partition(":")
    if not argument and ":" in source.form:
        raise InputError(f"data {spec!r} lacks a path; write {source.form}")
    return source.read(spec, argument, DataOptions.read(name, options, source.takes), part)


def _digits(
    spec: str, argument: str, options: DataOptions, part: str | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    if argument and not argument.isdecimal():
        raise InputError(f"digits:SIZE takes a size in pixels, not {argument!r}")
    size = int(argument) if argument else options.size or DIGITS_SIZE
    data = load_digits(size=size, seed=options.seed)
    return {"train": data.train, "val": data.val, "test": data.test}, data.classes


def _text(
    spec: str, argument: str, options: DataOptions, part: str | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    return read_text(argument, options, part), ()


def _parquet(
    spec: str, argument: str, options: DataOptions, part: str | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    return _images(spec, dict(read_parquet(argument)), options, part)


def _folder(
    spec: str, argument: str, options: DataOptions, part: str | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    return _images(spec, dict(read_folder(argument)), options, part)


def _images(
    spec: str,
    found: Mapping[str, ParquetImages | FolderImages],
    options: DataOptions,
    part: str | None,
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Parts of image files, cut as need be."""
    pixels = Pixels(options)
    plain = Pixels(dataclasses.replace(options, crop=None, flip=False))
    parts: dict[str, Part] = {}

    def add(name: str, files: ParquetImages | FolderImages, rows: list[int]) -> None:
        made = ImagePart(spec, files, rows, pixels if name in ("train", _WHOLE) else plain)
        if not parts or name in found:
            made.note(Bad(*each) for each in files.unlabelled.items())
        parts[name] = made

    for name, files in found.items():
        if part is not None:
            if name in (part, _WHOLE):
                add(part, files, files.rows)
            continue
        rows = torch.tensor(files.rows, dtype=torch.int64)
        shares: tuple[float, ...] = ()
        if name == _WHOLE:
            shares = HELD_OUT
        elif name == "train" and "val" not in found and "test" in found:
            shares = (options.val,)
        if not shares or len(rows) < 2:
            add("train" if name == _WHOLE else name, files, files.rows)
            continue
        cut = stratified(files.labels[rows], shares, options.seed)
        for own, indices in zip(("train", "val", "test"), cut, strict=False):
            if len(indices):
                add(own, files, rows[indices].tolist())
    classes = next((files.classes for files in found.values() if files.classes), ())
    return parts, classes


def _from_callable(spec: str, options: Mapping[str, Any], seed: int) -> Data:
    """Call ``package.module:callable`` and read what it returns."""
    function = locate(spec, "data")
    try:
        value = function(**options)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"{spec} raised {type(error).__name__}: {error}") from error
    return as_data(spec, value, seed)


def as_data(name: str, value: Any, seed: int = 0) -> Data:
    """Read a `Data`, or a mapping of ``"train"`` and optionally ``"val"`` and ``"test"``.

    Parameters
    ----------
    name : str
    value : Data or mapping
        Each part a pair of inputs and labels, or a torch DataLoader; ``"classes"`` may name the
        classes. Without ``"val"`` it is a fifth of the training part, which then has it no more;
        where that is a loader, which cannot be cut, it is the training part. Without ``"test"``
        it is the validation part.
    seed : int, default 0
        Of what is held out.

    Raises
    ------
    InputError
        For anything else.
    """
    if isinstance(value, Data):
        return value
    if not isinstance(value, Mapping) or "train" not in value:
        raise InputError(
            f"{name} must return secateur.data.Data or a mapping with 'train', "
            f"not {type(value).__name__}"
        )
    parts = {
        part: as_part(f"{name}: {part!r}", value[part])
        for part in ("train", "val", "test")
        if value.get(part) is not None
    }
    train, val = parts["train"], parts.get("val")
    if val is None:
        train, val = held_out(train, seed) if isinstance(train, Split) else (train, train)
    classes = tuple(str(each) for each in value.get("classes", ()))
    return Data(name, train, val, parts.get("test", val), classes)


SOURCES.register("digits")(
    Source("digits", "scikit-learn's handwritten digits; digits:SIZE", _digits, ("seed", "size"))
)
SOURCES.register("parquet")(
    Source(
        "parquet:PATH",
        "images in the schema of Hugging Face's data sets",
        _parquet,
        tuple(_IMAGE_OPTIONS),
    )
)
SOURCES.register("folder")(
    Source("folder:PATH", "a folder of images for every class", _folder, tuple(_IMAGE_OPTIONS))
)
SOURCES.register("text")(
    Source(
        "text:PATH",
        "a text, as bytes or tokens, with the next one as target",
        _text,
        ("seed", "length", "tokenizer", "strict"),
    )
)
