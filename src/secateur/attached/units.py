"""Units of a weight by name: the table of sparse granularities, and whole filters and channels."""

from __future__ import annotations

from secateur.errors import InputError
from secateur.sparsity.table import ROWS, Row, SparseGranularity, as_sparse

__all__ = ["BOXES", "as_units"]

# While a model trains, a filter or a channel is a tile like any other: it is only held small.
WHOLE = {
    row.name: row
    for row in [
        Row("filter", "o (i) (k)", (), False, "all that computes one output", "1608.03665"),
        Row("channel", "(o) i (k)", (), False, "all that reads one input", "1608.03665"),
    ]
}


# Rows whose units are boxes of entries; the others choose among the entries of a run or a kernel.
BOXES = tuple(name for name in ROWS if "N:M" not in name and name != "pattern")


def as_units(text: str) -> SparseGranularity:
    """Read a granularity: any of the sparse ones, ``"filter"`` or ``"channel"``.

    Raises
    ------
    UnknownNameError
        For an unknown name.
    InputError
        For sizes that it does not take, and for granularities that are no groups of entries.

    Examples
    --------
    >>> from secateur.sparsity import Weight
    >>> conv = Weight("conv.weight", (8, 4, 3, 3))
    >>> [as_units(name).tiling(conv).grid for name in ("filter", "channel", "kernel", "block:2x4")]
    [(8, 1, 1, 1), (1, 4, 1, 1), (8, 4, 1, 1), (4, 1, 3, 3)]
    """
    name = str(text).partition(":")[0]
    if name in WHOLE:
        return SparseGranularity(name, WHOLE[name], ())
    found = as_sparse(text, WHOLE)
    if type(found) is not SparseGranularity:
        raise InputError(
            f"granularity {text!r} is a choice among entries, not a group of them; take units such "
            f"as {', '.join([*WHOLE, *BOXES])}"
        )
    return found
