"""A tensor in the layout that it is stored in, checked before it becomes a tensor again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import FileFormatError
from secateur.packing.codes import Bytes
from secateur.packing.index import INDEXES, Every, Index, Positions
from secateur.packing.tiles import grid_of, join_tiles
from secateur.packing.values import MOST_SHARED, Codebook
from secateur.tensors import INTEGERS

__all__ = ["Packed", "integers"]

MOST_ENTRIES = 2**47
INDEX, VALUES, CODES, TABLE = "index", "values", "codes", "table"


def integers(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The bits of a contiguous tensor's entries, as integers of their size."""
    return tensor.detach().view(INTEGERS[tensor.element_size()]).numpy()


@dataclasses.dataclass(frozen=True)
class Packed:
    """A tensor of which only some entries are stored; all others are zero.

    Attributes
    ----------
    shape : tuple of int
    dtype : torch.dtype
    tile : tuple of int
        The tensor is cut into tiles of this shape.
    index : Index
        Which of them, or which of their entries, are stored.
    codebook : Codebook or None
        How values are stored, where not as they are.
    parts : dict of str to Tensor
        ``index`` (bytes); and ``values``, or ``codes`` (bytes) and ``table``.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    tile: tuple[int, ...]
    index: Index
    codebook: Codebook | None
    parts: dict[str, Tensor] = dataclasses.field(repr=False)

    @property
    def layout(self) -> str:
        """Its name: ``bitmask``, ``delta``, ``2:4``, or of tiles ``bitmask 16x32``; ``dense``.

        With ``shared`` where values are codes of a table.
        """
        name = "dense" if isinstance(self.index, Every) else self.index.name
        if isinstance(self.index, Positions):
            name = f"{self.index.keep}:{self.index.width}"
        elif self.index.width > 1:
            name += " " + "x".join(map(str, self.tile))
        return f"{name} shared" if self.codebook is not None else name

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.numel() * part.element_size() for part in self.parts.values())

    def describe(self) -> dict[str, Any]:
        """What the parts do not say themselves, as JSON values."""
        described: dict[str, Any] = {
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tile": list(self.tile),
            **self.index.describe(),
        }
        if self.codebook is not None:
            described["codebook"] = dataclasses.asdict(self.codebook)
        return described

    @classmethod
    def part_names(cls, described: Any) -> tuple[str, ...]:
        """Which parts belong to a description."""
        shared = isinstance(described, Mapping) and "codebook" in described
        index = isinstance(described, Mapping) and described.get("index") != Every.name
        return (*((INDEX,) if index else ()), *((CODES, TABLE) if shared else (VALUES,)))

    @classmethod
    def of(cls, described: Any, parts: dict[str, Tensor]) -> Packed:
        """What a description and its parts make together.

        Nothing of the tensor's size is allocated: sizes are compared, and no more.

        Raises
        ------
        FileFormatError
            Where they do not belong together.
        """
        try:
            made = _read(cls, dict(described), parts)
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            if isinstance(error, FileFormatError):
                raise
            reason = " ".join(str(error).split())
            raise FileFormatError(f"its layout is malformed ({reason})") from error
        made._check_lengths()
        return made

    def unpack(self) -> Tensor:
        """The tensor.

        Raises
        ------
        FileFormatError
            Where index or codes are not what they should be.
        """
        at, values = self._at(), self._values()
        return self._placed(at, values)

    def pattern(self) -> Tensor:
        """True where an entry is stored, also where a zero is.

        Raises
        ------
        FileFormatError
        """
        at = self._at()
        table = np.zeros(self.index.units * self.index.width, bool)
        table[at] = True
        return torch.from_numpy(self._joined(table))

    def table(self) -> tuple[Tensor, Tensor]:
        """The logical form of N:M, for kernels: values and positions, ``[..., keep]`` both.

        Returns
        -------
        values : Tensor, shape [*grid, keep]
            Grid as in `tiles`: ``[outputs, inputs // M]`` for a linear layer.
        positions : Tensor of uint8, shape [*grid, keep]
            0 to M − 1, ascending in every run.

        Raises
        ------
        FileFormatError
            Where it is another layout.
        """
        if not isinstance(self.index, Positions):
            raise FileFormatError(f"layout {self.layout!r} has no positions in runs; N:M has")
        shape = (*grid_of(self.shape, self.tile), self.index.keep)
        at = np.asarray(self._at()) % self.index.width
        values = torch.from_numpy(np.array(self._values())).view(self.dtype)
        return values.reshape(shape), torch.from_numpy(at.astype(np.uint8)).reshape(shape)

    def _at(self) -> np.ndarray[Any, Any] | slice:
        return self.index.find(_bytes(self.parts[INDEX]) if INDEX in self.parts else _NOTHING)

    def _values(self) -> np.ndarray[Any, Any]:
        if self.codebook is None:
            return integers(self.parts[VALUES])
        table = integers(self.parts[TABLE])
        return self.codebook.read(_bytes(self.parts[CODES]), table, self.index.count)

    def _placed(self, at: np.ndarray[Any, Any] | slice, values: np.ndarray[Any, Any]) -> Tensor:
        table = np.zeros(self.index.units * self.index.width, values.dtype)
        table[at] = values
        return torch.from_numpy(self._joined(table)).view(self.dtype)

    def _joined(self, table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return join_tiles(table.reshape(-1, self.index.width), self.shape, self.tile)

    def _check_lengths(self) -> None:
        index, count = self.index, self.index.count
        expected: dict[str, tuple[torch.dtype, int | None]] = {}
        if not isinstance(index, Every):
            expected[INDEX] = (torch.uint8, index.length())
        if self.codebook is None:
            expected[VALUES] = (self.dtype, count)
        else:
            expected[CODES] = (torch.uint8, self.codebook.length(count))
            expected[TABLE] = (self.dtype, self.codebook.entries)
        for name, (dtype, length) in expected.items():
            part = self.parts.get(name)
            if part is None:
                raise FileFormatError(f"its part {name!r} is missing")
            if part.ndim != 1 or part.dtype != dtype or length not in (None, len(part)):
                raise FileFormatError(
                    f"its part {name!r} is {part.dtype} {list(part.shape)}, "
                    f"where {length} of {dtype} belong"
                )


_NOTHING: Bytes = np.zeros(0, np.uint8)


def _bytes(part: Tensor) -> Bytes:
    found: Bytes = part.numpy()
    return found


def _read(kind: type[Packed], described: dict[str, Any], parts: dict[str, Tensor]) -> Packed:
    shape, tile = (_sizes(described.pop(name)) for name in ("shape", "tile"))
    if len(shape) != len(tile) or min(tile, default=1) < 1 or prod(shape) > MOST_ENTRIES:
        raise FileFormatError(f"no tensor {list(shape)} is cut into tiles {list(tile)}")
    if any(step > max(size, 1) for size, step in zip(shape, tile, strict=True)):
        raise FileFormatError(f"tiles {list(tile)} are larger than the tensor {list(shape)}")
    dtype = getattr(torch, str(described.pop("dtype")), None)
    if not isinstance(dtype, torch.dtype) or dtype.is_complex or dtype.itemsize not in INTEGERS:
        raise FileFormatError("its dtype is unknown")
    codebook = None
    if "codebook" in described:
        given = dict(described.pop("codebook"))
        codebook = Codebook(_count(given.pop("entries")), _flag(given.pop("deflated", False)))
        if given or not 1 <= codebook.entries <= MOST_SHARED:
            raise FileFormatError("its table of values is malformed")
    name = str(described.pop("index"))
    if name not in INDEXES:
        raise FileFormatError(f"its index {name!r} is unknown; update secateur")
    own = {
        key: _flag(value) if key == "deflated" else _count(value)
        for key, value in described.items()
    }
    units, width = prod(grid_of(shape, tile)), prod(tile)
    index = INDEXES[name](units=units, width=width, **own)
    bits, keep, tiles = own.get("bits", 8), own.get("keep", 1), own.get("tiles", 0)
    if not 1 <= bits <= 8 or not 1 <= keep <= width or tiles > units:
        raise FileFormatError(f"its index {name!r} is malformed")
    if own.get("deflated") and bits != 8:
        raise FileFormatError("only codes of 8 bits are Huffman-coded")
    if isinstance(index, Positions) and (index.width > MOST_SHARED or prod(shape) != units * width):
        raise FileFormatError(f"no runs of {width} fit the tensor {list(shape)}")
    return kind(shape, dtype, tile, index, codebook, parts)


def _sizes(given: Any) -> tuple[int, ...]:
    return tuple(_count(size) for size in list(given))


def _count(given: Any) -> int:
    if type(given) is not int or not 0 <= given <= MOST_ENTRIES:
        raise FileFormatError(f"{given!r} is no size")
    return given


def _flag(given: Any) -> bool:
    if type(given) is not bool:
        raise FileFormatError(f"{given!r} is neither true nor false")
    return given
