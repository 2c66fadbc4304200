"""Sparse granularities as one table: what a unit keeps apart, cuts into tiles, or spans."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.sparse.tiles import Tiling
from secateur.sparse.weights import Weight

__all__ = ["ROWS", "Row", "SparseGranularity", "as_sparse"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes
    ----------
    name : str
    pattern : str
        Three entries for outputs, inputs and kernel positions. A bare axis is kept apart,
        ``(i)`` is spanned, ``o/V`` is cut into tiles of V; ``(w)`` spans only the last axis of
        the kernel.
    default : tuple of int
        Sizes of the tiles, in the order in which they occur.
    needs_kernel : bool
        Whether the weight must have kernel positions: a linear layer has no stripes.
    summary, source : str
    """

    name: str
    pattern: str
    default: tuple[int, ...]
    needs_kernel: bool
    summary: str
    source: str


ROWS: dict[str, Row] = {
    row.name: row
    for row in [
        Row("element", "o i k", (), False, "single weights (unstructured)", "1506.02626"),
        Row("vector", "o/V i k", (16,), False, "V outputs at one input and position", "2005.10891"),
        Row("run", "o i/V k", (4,), False, "V inputs in a row at one output", "1705.08922"),
        Row("row", "o i (w)", (), True, "rows of kernels", "1705.08922"),
        Row("block", "o/R i/C k", (4, 4), False, "tiles of R outputs by C inputs", "1705.08922"),
        Row("kernel", "o i (k)", (), True, "whole kernels (connectivity)", "1705.08922"),
        Row("stripe", "o (i) k", (), True, "all inputs at one kernel position", "2009.14410"),
        Row("shape", "(o) i k", (), False, "one input and position of all outputs", "1608.03665"),
    ]
}


@dataclasses.dataclass(frozen=True)
class SparseGranularity:
    """A row of the table with its sizes: what becomes zero as one unit.

    Attributes
    ----------
    name : str
        As users write it: ``"block:4x8"``.
    row : Row
    sizes : tuple of int
        Of the tiles.
    """

    name: str
    row: Row
    sizes: tuple[int, ...]

    def misfit(self, weight: Weight) -> str | None:
        """Why it cannot be applied to a weight; None where it can."""
        shape = weight.canonical_shape
        if self.row.needs_kernel and len(shape) < 3:
            return f"granularity {self.name!r} needs a kernel, and this weight has none"
        for axis, size in zip(shape, self._tile_sizes(), strict=False):
            if size is not None and size > axis:
                return f"granularity {self.name!r} is larger than the weight, {list(shape)}"
        return None

    def tiling(self, weight: Weight) -> Tiling:
        """The weight's units."""
        shape = weight.canonical_shape
        outputs, inputs, kernel = self.row.pattern.split()
        sizes = iter(self.sizes)
        tile = [_step(outputs, shape[0], sizes), _step(inputs, shape[1], sizes)]
        for axis, size in enumerate(shape[2:], start=3):
            spanned = kernel == "(k)" or (kernel == "(w)" and axis == len(shape))
            tile.append(size if spanned else 1)
        return Tiling(tuple(shape), tuple(tile))

    def _tile_sizes(self) -> list[int | None]:
        sizes = iter(self.sizes)
        return [next(sizes) if "/" in axis else None for axis in self.row.pattern.split()[:2]]


def _step(axis: str, size: int, sizes: Iterator[int]) -> int:
    if axis.startswith("("):
        return size
    return min(next(sizes), size) if "/" in axis else 1


def as_sparse(text: str) -> SparseGranularity:
    """Read a sparse granularity: a name of the table, with sizes if need be.

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
    """
    name, colon, rest = text.partition(":")
    if name not in ROWS:
        raise UnknownNameError(f"unknown granularity {text!r}{suggestion(name, ROWS)}")
    row = ROWS[name]
    if not colon:
        return SparseGranularity(text, row, row.default)
    if not row.default:
        raise InputError(f"granularity {name!r} takes no sizes, so {rest!r} means nothing")
    form = "x".join(["N"] * len(row.default))
    if not re.fullmatch("x".join([r"[1-9]\d*"] * len(row.default)), rest):
        raise InputError(f"granularity {text!r}: write its size as {name}:{form}")
    return SparseGranularity(text, row, tuple(int(size) for size in rest.split("x")))
