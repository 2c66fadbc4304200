"""Sparse granularities as one table, and how users write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.sparsity.base import Row, SparseGranularity
from secateur.sparsity.hierarchical import Hierarchical
from secateur.sparsity.pattern import Pattern
from secateur.sparsity.semi import SemiStructured, Short

__all__ = ["ROWS", "Row", "SparseGranularity", "as_sparse"]

ROWS: dict[str, Row] = {
    row.name: row
    for row in [
        Row("element", "o i k", (), False, "single weights (unstructured)", "arXiv:1506.02626"),
        Row("vector", "o/V i k", (16,), False, "V outputs at one input and position",
            "Chen et al. 2021"),
        Row("run", "o i/V k", (4,), False, "V inputs in a row at one output", "arXiv:1705.08922"),
        Row("row", "o i (w)", (), True, "rows of kernels", "arXiv:1705.08922"),
        Row("block", "o/R i/C k", (4, 4), False, "tiles of R outputs by C inputs",
            "arXiv:1705.08922"),
        Row("kernel", "o i (k)", (), True, "whole kernels (connectivity)", "arXiv:1705.08922"),
        Row("stripe", "o (i) k", (), True, "all inputs at one kernel position", "arXiv:2009.14410"),
        Row("shape", "(o) i k", (), False, "one input and position of all outputs",
            "arXiv:1608.03665"),
        Row("N:M", "o i/M k", (), False, "N of every M inputs in a row stay", "arXiv:2104.08378"),
        Row("N:M:transposable", "o/M i/M k", (), False,
            "N of every M along inputs and along outputs stay", "arXiv:2102.08124"),
        Row("UNITS/N:M", "o i k", (), False,
            "whole units of another granularity, then N:M in what stays", "arXiv:2310.02065"),
        Row("pattern", "o i (k)", (8,), True,
            "3x3 kernels keep 4 entries in one of a few patterns; whole kernels",
            "arXiv:2001.00138"),
    ]
}  # fmt: skip

NM = re.compile(r"(\d+):(\d+)((?::[a-z]+)*)")


def as_sparse(text: str, others: Iterable[str] = ()) -> SparseGranularity:
    """Read a sparse granularity: a name of the table, with sizes if need be.

    Parameters
    ----------
    text : str
        ``"block:4x8"``, ``"2:4"``, ``"2:4:skip"``, ``"2:4:transposable"``, ``"vector:16/2:4"``.
    others : iterable of str
        Further names to suggest where this one is unknown.

    Raises
    ------
    UnknownNameError
        For an unknown name.
    InputError
        For sizes that the row does not take.

    Examples
    --------
    >>> as_sparse("block:4x8").sizes, as_sparse("vector").sizes, as_sparse("kernel").sizes
    ((4, 8), (16,), ())
    >>> as_sparse("2:4:skip").short, as_sparse("vector:8/2:4").units.sizes
    ('skip', (8,))
    """
    units, slash, inner = text.partition("/")
    if slash:
        within = _nm(inner)
        if within is None or within.transposable or within.short == "skip":
            raise InputError(
                f"granularity {text!r}: after the slash write N:M, as in {units or 'vector'}/2:4"
            )
        outer = as_sparse(units)
        if type(outer) is not SparseGranularity:
            raise InputError(
                f"granularity {text!r}: before the slash write units such as vector:16 or block:4x4"
            )
        return Hierarchical(text, ROWS["UNITS/N:M"], (), outer, within)
    found = _nm(text)
    if found is not None:
        return found
    return _tiles(text, others)


def _nm(text: str) -> SemiStructured | None:
    match = NM.fullmatch(text)
    if match is None:
        return None
    flags = [flag for flag in match[3].split(":") if flag]
    for flag in flags:
        if flag not in ("skip", "transposable"):
            raise InputError(
                f"granularity {text!r}: {flag!r} is no option of N:M"
                f"{suggestion(flag, ['skip', 'transposable'])}"
            )
    keep, of = int(match[1]), int(match[2])
    if of < 2 or not 1 <= keep < of:
        raise InputError(
            f"granularity {text!r}: N of M stay, so M is at least 2 and N is 1 to M - 1, as in 2:4"
        )
    transposable = "transposable" in flags
    row = ROWS["N:M:transposable" if transposable else "N:M"]
    short: Short = "skip" if "skip" in flags else "pad"
    return SemiStructured(text, row, (keep, of), short, transposable)


def _tiles(text: str, others: Iterable[str]) -> SparseGranularity:
    name, colon, rest = text.partition(":")
    if name not in ROWS:
        known = [*others, *ROWS]
        raise UnknownNameError(f"unknown granularity {text!r}{suggestion(name, known)}")
    row = ROWS[name]
    kind = Pattern if name == "pattern" else SparseGranularity
    if not colon:
        return kind(text, row, row.default)
    if not row.default:
        raise InputError(f"granularity {name!r} takes no sizes, so {rest!r} means nothing")
    form = "x".join(["N"] * len(row.default))
    if not re.fullmatch("x".join([r"[1-9]\d*"] * len(row.default)), rest):
        raise InputError(f"granularity {text!r}: write its size as {name}:{form}")
    return kind(text, row, tuple(int(size) for size in rest.split("x")))
