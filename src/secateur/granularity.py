"""Granularities: what is removed as one unit."""

from __future__ import annotations

import dataclasses

from secateur.registry import Registry

__all__ = ["GRANULARITIES", "Granularity"]

GRANULARITIES: Registry[Granularity] = Registry("granularity")


@dataclasses.dataclass(frozen=True)
class Granularity:
    """One row of the table of granularities.

    Attributes
    ----------
    name : str
    structured : bool
        Whether a unit is taken out (the model gets smaller) or becomes zeros.
    kinds : tuple of str
        Families of modules whose outputs it removes; empty for every family.
    summary : str
    source : str
        The paper: its arXiv number, or authors and year.
    """

    name: str
    structured: bool
    kinds: tuple[str, ...]
    summary: str
    source: str


def _row(name: str, structured: bool, kinds: tuple[str, ...], summary: str, source: str) -> None:
    GRANULARITIES.register(name)(Granularity(name, structured, kinds, summary, source))


_row(
    "channel",
    True,
    (),
    "every coupled dimension: convolution channels, neurons, widths",
    "arXiv:2301.12900",
)
_row(
    "filter",
    True,
    ("conv",),
    "output channels of convolutions, with all that is coupled",
    "arXiv:1608.08710",
)
_row(
    "neuron",
    True,
    ("linear", "recurrent", "embedding"),
    "outputs of linear layers",
    "arXiv:1607.03250",
)
