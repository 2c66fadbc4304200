"""Building the model that a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.cli.options import parse_shape

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from secateur.inputs import ExampleInputs

__all__ = ["consoles", "keep_quiet", "open_model"]

_quiet = False


def keep_quiet(quiet: bool) -> None:
    """Whether progress and remarks are left out."""
    global _quiet
    _quiet = quiet


def consoles() -> tuple[Console, Console]:
    """Where results go, and where progress and remarks go."""
    from rich.console import Console

    return Console(highlight=False), Console(stderr=True, highlight=False, quiet=_quiet)


def open_model(
    spec: str,
    *,
    pretrained: bool,
    weights: Path | None,
    input_shapes: list[str] | None,
    seed: int,
) -> tuple[nn.Module, ExampleInputs, bool]:
    """Build the model, load its weights, and find inputs that fit it.

    Returns
    -------
    model, example_inputs, random
        The last tells whether the weights are random.
    """
    shapes = [parse_shape(text) for text in input_shapes or []]

    from secateur.models import open_model as run

    return run(spec, pretrained=pretrained, weights=weights, input_shapes=shapes, seed=seed)
