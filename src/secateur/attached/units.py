"""Units of a weight by name: the table of sparse granularities, and whole filters and channels."""

from __future__ import annotations

from secateur.errors import UnknownNameError, suggestion
from secateur.sparse.table import ROWS, Row, SparseGranularity, as_sparse

__all__ = ["as_units"]

# While a model trains, a filter or a channel is a tile like any other: it is only held small.
WHOLE = {
    row.name: row
    for row in [
        Row("filter", "o (i) (k)", (), False, "all that computes one output", "1608.03665"),
        Row("channel", "(o) i (k)", (), False, "all that reads one input", "1608.03665"),
    ]
}


def as_units(text: str) -> SparseGranularity:
    """Read a granularity: any of the sparse ones, ``"filter"`` or ``"channel"``.

    Raises
    ------
    UnknownNameError
        For an unknown name.
    InputError
        For sizes that it does not take.

    Examples
    --------
    >>> from secateur.sparse import Weight
    >>> conv = Weight("conv.weight", (8, 4, 3, 3))
    >>> [as_units(name).tiling(conv).grid for name in ("filter", "channel", "kernel", "block:2x4")]
    [(8, 1, 1, 1), (1, 4, 1, 1), (8, 4, 1, 1), (4, 1, 3, 3)]
    """
    name = str(text).partition(":")[0]
    if name not in WHOLE and name not in ROWS:
        known = [*WHOLE, *ROWS]
        raise UnknownNameError(f"unknown granularity {text!r}{suggestion(name, known)}")
    return SparseGranularity(name, WHOLE[name], ()) if name in WHOLE else as_sparse(text)
