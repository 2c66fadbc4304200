"""The table of small nets, and the words an entry says about itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Builder = Callable[[], nn.Module]
Removed = Mapping[str, Mapping[int, list[int]]]
B = TypeVar("B", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Entry:
    """One small net and what is known about its prunability.

    Attributes
    ----------
    name, family : str
        The net, and the file of the zoo it lives in.
    build : callable
        Makes the net, the same one on every call.
    inputs : callable
        Makes the example inputs, the same ones on every call.
    prunable : bool
        Whether any exact removal exists.
    must_shrink : tuple of str
        Parameters that have an exact removal and so must be able to shrink.
    graph_shrink : tuple of str
        Parameters held by a literal in the Python code, which shrink under ``form="graph"`` only.
    statistics : bool
        The net reduces over a prunable dimension by something other than a weight, a norm that
        the harness knows, or `masked`: zeroed weights are then no reference.
    consumers_only : bool
        The reference zeroes what reads the removed indices and leaves what writes them: a weight
        that is divided by its own norm must not be zero.
    masked : callable, optional
        ``masked(dense, removed)`` changes a dense copy so that it reduces over kept indices only.
    note : str
        What the net is there to catch.
    """

    name: str
    family: str
    build: Builder
    inputs: Callable[[], Any]
    prunable: bool = True
    must_shrink: tuple[str, ...] = ()
    graph_shrink: tuple[str, ...] = ()
    statistics: bool = False
    consumers_only: bool = False
    masked: Callable[[nn.Module, Removed], None] | None = None
    note: str = ""

    def __str__(self) -> str:
        return self.name


ZOO: dict[str, Entry] = {}


def net(
    inputs: Callable[[], Any],
    *shrinks: str,
    name: str = "",
    prunable: bool = True,
    graph: tuple[str, ...] = (),
    **facts: Any,
) -> Callable[[B], B]:
    """Register the decorated class or function; its docstring is the note.

    `shrinks` names the modules whose weight must shrink, or full parameter names.
    """

    def add(builder: B) -> B:
        title = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", builder.__name__).lower()
        if title in ZOO:
            raise ValueError(f"two nets are called {title!r}")

        def build() -> nn.Module:
            torch.manual_seed(0)
            return builder()

        note = (builder.__doc__ or "").strip().split("\n")[0]
        ZOO[title] = Entry(
            name=title,
            family=builder.__module__.rpartition(".")[2],
            build=build,
            inputs=inputs,
            prunable=prunable,
            must_shrink=shrinks,
            graph_shrink=graph,
            note=note,
            **facts,
        )
        return builder

    return add


def floats(*shape: int) -> Callable[[], Tensor]:
    """Make one float tensor of this shape, batch included."""
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(1))


def image(channels: int = 3, height: int = 8, width: int = 6) -> Callable[[], Tensor]:
    """Make a batch of two images, not square, so that a swapped height and width shows."""
    return floats(2, channels, height, width)


def tokens(length: int = 5, width: int = 10) -> Callable[[], Tensor]:
    """Make a batch of two sequences of vectors."""
    return floats(2, length, width)


def ids(length: int = 5, vocabulary: int = 11) -> Callable[[], Tensor]:
    """Make a batch of two sequences of token numbers."""
    return lambda: torch.randint(
        0, vocabulary, (2, length), generator=torch.Generator().manual_seed(1)
    )
