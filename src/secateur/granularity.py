"""Granularities: what is removed as one unit."""

from __future__ import annotations

import dataclasses

from secateur.errors import InputError
from secateur.graph.roles import Role
from secateur.registry import Registry

__all__ = ["GRANULARITIES", "Granularity", "together"]

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
    roles : tuple of str, default ()
        What the coupled groups that it removes from are to the model, see
        `secateur.graph.roles`; empty for any.
    layers : bool, default False
        Whether whole blocks go.
    """

    name: str
    structured: bool
    kinds: tuple[str, ...]
    summary: str
    source: str
    roles: tuple[Role, ...] = ()
    layers: bool = False


def _row(
    name: str,
    structured: bool,
    kinds: tuple[str, ...],
    summary: str,
    source: str,
    roles: tuple[Role, ...] = (),
    layers: bool = False,
) -> None:
    row = Granularity(name, structured, kinds, summary, source, roles, layers)
    GRANULARITIES.register(name)(row)


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
_row(
    "head",
    True,
    (),
    "attention heads; whole groups where several queries share keys and values",
    "arXiv:1905.10650",
    ("head",),
)
_row(
    "head_dim",
    True,
    (),
    "features inside every attention head; rotary pairs go together",
    "arXiv:2110.04869",
    ("head_dim",),
)
_row(
    "ffn",
    True,
    (),
    "inner features of feed-forward networks, gated or plain",
    "arXiv:1910.06360",
    ("ffn",),
)
_row(
    "hidden",
    True,
    (),
    "features of the residual stream, in everything that reads or writes it",
    "arXiv:2204.00408",
    ("hidden",),
)
_row(
    "layer",
    True,
    (),
    "whole blocks of a residual network, what they are given going on in their place",
    "arXiv:2403.03853",
    layers=True,
)


def together(names: list[str]) -> Granularity:
    """Several granularities that find their units by role, as one.

    Raises
    ------
    InputError
        Where one of them has no role, or heads are to go as a whole and in part.

    Examples
    --------
    >>> together(["ffn", "head"]).roles
    ('ffn', 'head')
    """
    rows = [GRANULARITIES[name] for name in dict.fromkeys(names)]
    for row in rows:
        if not (row.roles or row.layers):
            able = ", ".join(
                name
                for name in GRANULARITIES
                if GRANULARITIES[name].roles or GRANULARITIES[name].layers
            )
            raise InputError(f"granularity {row.name!r} cannot be combined; these can: {able}")
    found = tuple(role for row in rows for role in row.roles)
    if {"head", "head_dim"} <= set(found):
        raise InputError(
            "heads go as a whole (head) or become narrower (head_dim), not both in one call; "
            "prune twice"
        )
    return Granularity(
        ",".join(row.name for row in rows), True, (), "; ".join(row.summary for row in rows),
        "; ".join(row.source for row in rows), found, any(row.layers for row in rows),
    )  # fmt: skip
