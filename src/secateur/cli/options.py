"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from secateur.errors import BudgetError, InputError, UnknownNameError, suggestion

__all__ = [
    "RANDOM",
    "Address",
    "EngineName",
    "InputShapes",
    "Model",
    "Pretrained",
    "Seed",
    "Weights",
    "parse_budget",
    "parse_format",
    "parse_rounding",
    "parse_shape",
]

RANDOM = "[yellow]note:[/] the weights are random; pass --pretrained or --weights FILE"

Model: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME, hf:CONFIG-OR-FOLDER or package.module:callable.",
    ),
]
EngineName: TypeAlias = Annotated[
    str,
    typer.Option("--engine", help="Where models are tried out: in_process, processes:4 or ray."),
]
Address: TypeAlias = Annotated[
    str | None,
    typer.Option("--address", metavar="ray://HOST:10001", help="Of --engine ray's cluster."),
]
Pretrained: TypeAlias = Annotated[
    bool, typer.Option("--pretrained", help="Download the library's weights.")
]
InputShapes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="1x3x224x224",
        help="Shape of an input, batch first, where the model's source does not tell; repeat "
        "for several.",
    ),
]
Weights: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE",
        help="Weights: a file of secateur's, or a safetensors state dict.",
    ),
]
Seed: TypeAlias = Annotated[
    int, typer.Option("--seed", help="Of random weights, random inputs and ties.")
]


def parse_budget(entries: list[str]) -> dict[str, float]:
    """Read ``macs=0.5`` entries.

    Examples
    --------
    >>> parse_budget(["macs=0.5", "params=60%"])
    {'macs': 0.5, 'params': 0.6}
    >>> parse_budget(["half"])
    Traceback (most recent call last):
    ...
    secateur.errors.BudgetError: write a budget as macs=0.5, not 'half'
    """
    budget = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        try:
            scale = 100 if text.endswith("%") else 1
            budget[key.strip()] = float(text.removesuffix("%")) / scale
        except ValueError:
            equals = ""
        if not equals or not key.strip():
            raise BudgetError(f"write a budget as macs=0.5, not {entry!r}")
    return budget


def parse_format(text: str) -> Literal["dense", "sparse"]:
    """Read ``--format``.

    Examples
    --------
    >>> parse_format("sparse")
    'sparse'
    """
    known: dict[str, Literal["dense", "sparse"]] = {"dense": "dense", "sparse": "sparse"}
    if text not in known:
        raise UnknownNameError(f"unknown format {text!r}{suggestion(text, known)}")
    return known[text]


def parse_rounding(text: str) -> int | str | dict[str, int | str]:
    """Read ``8``, ``auto`` or rules for patterns of layer names, as ``layer3.*=16,*=8``.

    Examples
    --------
    >>> parse_rounding("8"), parse_rounding("layer3.*=16,*=auto")
    (8, {'layer3.*': 16, '*': 'auto'})
    >>> parse_rounding("some")
    Traceback (most recent call last):
    ...
    secateur.errors.InputError: write --round-to as 8, auto or layer3.*=16,*=8, not 'some'
    """
    wrong = InputError(f"write --round-to as 8, auto or layer3.*=16,*=8, not {text!r}")

    def multiple(part: str) -> int | str:
        if part == "auto":
            return part
        if not part.isdecimal() or int(part) < 1:
            raise wrong
        return int(part)

    if "=" not in text:
        return multiple(text.strip())
    rules: dict[str, int | str] = {}
    for entry in text.split(","):
        pattern, _, part = (side.strip() for side in entry.rpartition("="))
        if not pattern or pattern in rules:
            raise wrong
        rules[pattern] = multiple(part)
    return rules


def parse_shape(text: str) -> tuple[int, ...]:
    """Read ``1x3x224x224`` or ``1,3,224,224``.

    Examples
    --------
    >>> parse_shape("1x3x224x224"), parse_shape("1,16")
    ((1, 3, 224, 224), (1, 16))
    """
    try:
        shape = tuple(int(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise InputError(f"write an input shape as 1x3x224x224, not {text!r}")
    return shape
