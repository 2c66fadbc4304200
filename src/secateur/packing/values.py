"""The stored values: as they are, or as codes of a table where only a few different ones occur."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from secateur.errors import FileFormatError
from secateur.packing.codes import Bytes, inflate, packed_length, unpack_codes

__all__ = ["MOST_SHARED", "Codebook", "few_different"]

Array = np.ndarray[Any, Any]
MOST_SHARED = 256
LOOKED_AT = 4096


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Values as codes of a table of different ones (Han et al. 2016, arXiv 1510.00149).

    Attributes
    ----------
    entries : int
        Of the table, 256 at most.
    deflated : bool
        Whether the codes are Huffman-coded bytes, and not of `bits` bits each.
    """

    entries: int
    deflated: bool = False

    @property
    def bits(self) -> int:
        """Of a code."""
        return max((self.entries - 1).bit_length(), 1)

    def length(self, count: int) -> int | None:
        """Bytes of so many codes; None where only the bytes themselves tell."""
        return None if self.deflated else packed_length(count, self.bits)

    def read(self, stored: Bytes, table: Array, count: int) -> Array:
        """The values.

        Raises
        ------
        FileFormatError
            Where a code is none of the table's.
        """
        if self.deflated:
            codes = inflate(stored, count)
        else:
            codes = unpack_codes(stored, self.bits, count)
        if count and int(codes.max()) >= self.entries:
            raise FileFormatError(f"a code is not among the {self.entries} of its table")
        return table[codes]


def few_different(values: Array) -> Array | None:
    """The different values beside zero in ascending order, or None where there are more than 256.

    Parameters
    ----------
    values : ndarray of integers, shape [n]
        The bits of numbers.

    Examples
    --------
    >>> few_different(np.array([3, 1, 0, 3])).tolist(), few_different(np.arange(300))
    ([1, 3], None)
    """
    # Nearly all tensors have too many, which a few of their values show.
    step = max(len(values) // LOOKED_AT, 1)
    if len(np.unique(values[::step])) > MOST_SHARED + 2:
        return None
    table = np.unique(values)
    # Without the sign, which zeros have, too.
    table = table[table << 1 != 0]
    return table if len(table) <= MOST_SHARED else None
