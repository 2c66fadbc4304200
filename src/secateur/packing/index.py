"""Where stored values stand: four ways to write it down, from one bit a tile to none."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from secateur.errors import FileFormatError
from secateur.packing.codes import Bytes, inflate, pack_codes, packed_length, unpack_codes

__all__ = ["INDEXES", "Bitmask", "Delta", "Every", "Index", "Positions"]

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Index(ABC):
    """Which entries of a table of tiles, ``[units, width]``, are stored.

    Attributes
    ----------
    units, width : int
        Tiles, and entries of a tile.
    count : int
        Values that are stored.
    """

    name: ClassVar[str]

    units: int
    width: int

    @property
    @abstractmethod
    def count(self) -> int: ...

    @abstractmethod
    def length(self) -> int | None:
        """Bytes of the index; None where only the bytes themselves tell."""

    @abstractmethod
    def find(self, stored: Bytes) -> Array | slice:
        """Positions in the flat table, in the order of the values; all, as a slice.

        Raises
        ------
        FileFormatError
            Where the bytes are no such index.
        """

    def describe(self) -> dict[str, Any]:
        """The numbers of it, as JSON values."""
        own = dataclasses.asdict(self)
        return {"index": self.name, **{k: v for k, v in own.items() if k not in ("units", "width")}}


@dataclasses.dataclass(frozen=True)
class Every(Index):
    """Every tile is there; no index at all."""

    name = "every"

    @property
    def count(self) -> int:
        return self.units * self.width

    def length(self) -> int:
        return 0

    def find(self, stored: Bytes) -> slice:
        return slice(None)


@dataclasses.dataclass(frozen=True)
class _OfTiles(Index):
    """Whole tiles are there, or not.

    Attributes
    ----------
    tiles : int
        How many are.
    """

    tiles: int

    @property
    def count(self) -> int:
        return self.tiles * self.width

    def _entries(self, tiles: Array) -> Array:
        if self.width == 1:
            return tiles
        found: Array = (tiles[:, None] * self.width + np.arange(self.width)).reshape(-1)
        return found


@dataclasses.dataclass(frozen=True)
class Bitmask(_OfTiles):
    """One bit a tile, in order, the first in the lowest bit of the first byte."""

    name = "bitmask"

    def length(self) -> int:
        return packed_length(self.units, 1)

    @staticmethod
    def write(there: Array) -> Bytes:
        """The bytes of a bool array ``[units]``."""
        return np.packbits(there, bitorder="little")

    def find(self, stored: Bytes) -> Array:
        bits = np.unpackbits(stored, bitorder="little")
        if bits[self.units :].any():
            raise FileFormatError("a bitmask has bits after its last tile")
        tiles = np.flatnonzero(bits[: self.units].view(bool))
        if len(tiles) != self.tiles:
            raise FileFormatError(f"a bitmask has {len(tiles)} tiles instead of {self.tiles}")
        return self._entries(tiles)


@dataclasses.dataclass(frozen=True)
class Delta(_OfTiles):
    """The number of tiles left out before each that is there, in codes of a few bits.

    The largest code stands for as many that are left out as it says, with none after them: longer
    gaps take several codes (Han et al. 2016, arXiv 1510.00149, pad with zeros instead).

    Attributes
    ----------
    bits : int
        1 to 8.
    codes : int
        How many.
    deflated : bool
        Whether the bytes are Huffman-coded; codes are of 8 bits then.
    """

    name = "delta"

    bits: int
    codes: int
    deflated: bool = False

    @staticmethod
    def gaps(there: Array) -> Array:
        """Tiles that are left out before each one in a bool array ``[units]``."""
        tiles = np.flatnonzero(there)
        return np.diff(tiles, prepend=-1) - 1

    @staticmethod
    def best_bits(gaps: Array) -> tuple[int, int]:
        """The number of bits that needs the fewest bytes, and the number of codes then."""
        counts = np.bincount(np.minimum(gaps, 255 * 255)) if len(gaps) else np.zeros(1, int)
        exact = len(gaps) == 0 or int(gaps.max()) <= 255 * 255
        lengths = np.arange(len(counts))

        def codes(bits: int) -> int:
            top = 2**bits - 1
            if exact:
                return int((counts * (lengths // top + 1)).sum())
            return int((gaps // top).sum()) + len(gaps)

        return min(((bits, codes(bits)) for bits in range(1, 9)), key=lambda e: (e[0] * e[1], e[0]))

    @staticmethod
    def code(gaps: Array, bits: int) -> Bytes:
        """The codes of gaps, one a byte."""
        top = 2**bits - 1
        longer = gaps // top
        codes = np.full(int(longer.sum()) + len(gaps), top, np.uint8)
        codes[np.cumsum(longer + 1) - 1] = gaps % top
        return codes

    def length(self) -> int | None:
        return None if self.deflated else packed_length(self.codes, self.bits)

    def find(self, stored: Bytes) -> Array:
        if self.deflated:
            codes = inflate(stored, self.codes)
        else:
            codes = unpack_codes(stored, self.bits, self.codes)
        there = codes < 2**self.bits - 1
        # A code that ends in a tile moves past that tile, too.
        after = np.cumsum(codes + there.view(np.uint8), dtype=np.int64)
        tiles = after[there] - 1
        if len(tiles) != self.tiles or (self.codes and not there[-1]):
            raise FileFormatError(f"gaps lead to {len(tiles)} tiles instead of {self.tiles}")
        if len(tiles) and tiles[-1] >= self.units:
            raise FileFormatError("gaps lead past the last tile")
        return self._entries(tiles)


@dataclasses.dataclass(frozen=True)
class Positions(Index):
    """As many entries of every tile, by their positions in it, ascending: N:M.

    Attributes
    ----------
    keep : int
        How many; zeros are stored where a tile has fewer.
    """

    name = "positions"

    keep: int

    @property
    def count(self) -> int:
        return self.units * self.keep

    @property
    def bits(self) -> int:
        """Of a position: two for tiles of four."""
        return max((self.width - 1).bit_length(), 1)

    def length(self) -> int:
        return packed_length(self.count, self.bits)

    @staticmethod
    def choose(there: Array, keep: int) -> Bytes:
        """The positions ``[units, keep]`` of the entries of a bool array ``[units, width]``.

        Where there are fewer, the first ones that are left fill up.
        """
        # A stable sort brings entries to the front and leaves both halves in order.
        first = np.argsort(~there, axis=1, kind="stable")[:, :keep]
        return np.sort(first, axis=1).astype(np.uint8)

    def write(self, positions: Bytes) -> Bytes:
        """Two bits a position where tiles are of four."""
        return pack_codes(positions.reshape(-1), self.bits)

    def find(self, stored: Bytes) -> Array:
        codes = unpack_codes(stored, self.bits, self.count).reshape(self.units, self.keep)
        if (codes >= self.width).any() or (codes[:, 1:] <= codes[:, :-1]).any():
            raise FileFormatError(
                f"positions in tiles of {self.width} are not ascending or lie outside"
            )
        starts = np.arange(0, self.units * self.width, self.width)
        found: Array = (starts[:, None] + codes).reshape(-1)
        return found


INDEXES: Mapping[str, type[Index]] = {
    kind.name: kind for kind in (Every, Bitmask, Delta, Positions)
}
"""Every kind by name."""
