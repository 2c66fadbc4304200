"""From the name of a data set, as written on a command line or in a recipe, to the data."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from secateur.data.digits import load_digits
from secateur.data.splits import Data, Split, held_out
from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.locate import locate
from secateur.registry import Registry

__all__ = ["SOURCES", "Source", "load_data"]

Source: TypeAlias = Callable[[str, int], Data]
"""A source takes what follows the colon (``""`` without one) and a seed."""

SOURCES: Registry[Source] = Registry("data source")


@SOURCES.register("digits")
def _digits(argument: str, seed: int) -> Data:
    """``digits`` or ``digits:SIZE``, with the size in pixels."""
    if argument and not argument.isdecimal():
        raise InputError(f"digits:SIZE takes a size in pixels, not {argument!r}")
    return load_digits(size=int(argument), seed=seed) if argument else load_digits(seed=seed)


def load_data(spec: str, *, seed: int = 0) -> Data:
    """Load the data that a short specification names.

    Parameters
    ----------
    spec : str
        ``digits`` (scikit-learn's handwritten digits; ``digits:8`` for 8 x 8 pixels), or
        ``package.module:callable`` for a function without arguments that returns a `Data`
        or a mapping of ``"train"`` and optionally ``"val"`` and ``"test"`` to pairs of inputs
        and labels. A missing validation part is a fifth of the training part, which then has it
        no more: what is chosen by is never the test part. A missing test part is the validation
        part.
    seed : int
        Seed of the split into parts, where the source makes one.

    Raises
    ------
    UnknownNameError
        For a source that does not exist; the message suggests the nearest.
    InputError
        When the callable cannot be imported, raises, or returns something else.

    Examples
    --------
    >>> load_data("digits:8").name
    'digits'
    >>> load_data("digit")
    Traceback (most recent call last):
    ...
    secateur.errors.UnknownNameError: unknown data source 'digit'; did you mean 'digits'?
    """
    name, _, argument = spec.partition(":")
    if name in SOURCES:
        return SOURCES[name](argument, seed)
    mistyped = difflib.get_close_matches(name, SOURCES, n=1)
    if argument and not mistyped:
        return _from_callable(spec, seed)
    raise UnknownNameError(
        f"unknown data source {name!r}{suggestion(name, [*SOURCES, 'package.module:callable'])}"
    )


def _from_callable(spec: str, seed: int) -> Data:
    """Call ``package.module:callable`` and read what it returns."""
    function = locate(spec, "data")
    try:
        value = function()
    except Exception as error:
        raise InputError(f"{spec} raised {type(error).__name__}: {error}") from error
    if isinstance(value, Data):
        return value
    if isinstance(value, Mapping) and "train" in value:
        return _from_mapping(spec, value, seed)
    raise InputError(
        f"{spec} must return secateur.data.Data or a mapping with 'train', "
        f"not {type(value).__name__}"
    )


def _from_mapping(spec: str, value: Mapping[str, Any], seed: int) -> Data:
    """Pairs of inputs and labels by the names of the parts."""
    parts: dict[str, Split] = {}
    for part in ("train", "val", "test"):
        pair = value.get(part)
        if pair is None:
            continue
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"{spec}: {part!r} must be a pair of inputs and labels")
        parts[part] = Split(pair[0], pair[1])
    train, val = parts["train"], parts.get("val")
    if val is None:
        train, val = held_out(train, seed)
    return Data(
        name=spec,
        train=train,
        val=val,
        test=parts.get("test", val),
        classes=tuple(str(name) for name in value.get("classes", ())),
    )
