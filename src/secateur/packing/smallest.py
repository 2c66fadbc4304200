"""Which layout a tensor takes the fewest bytes in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.packing.codes import Bytes, deflate, pack_codes, packed_length
from secateur.packing.index import Bitmask, Delta, Every, Index, Positions
from secateur.packing.packed import CODES, INDEX, TABLE, VALUES, Packed, integers
from secateur.packing.tiles import cut_tiles
from secateur.packing.values import MOST_SHARED, Codebook, few_different
from secateur.tensors import INTEGERS

__all__ = ["pack"]

Array = np.ndarray[Any, Any]
Tile = tuple[int, ...]

# What a tensor's entry in a file's header grows by when it is stored in parts.
DESCRIPTION = 400
RUNS = (4, 8, 16)


@dataclasses.dataclass(frozen=True)
class _Choice:
    tile: Tile
    index: Index
    nbytes: float


def pack(tensor: Tensor, pattern: Tensor | None = None, *, deflated: bool = False) -> Packed | None:
    """Store a tensor in the layout that takes the fewest bytes.

    Parameters
    ----------
    tensor : Tensor
        Contiguous, real and on the CPU. It comes back bit for bit, but for negative zeros, which
        products of weights and masks are full of: those may come back as 0.
    pattern : Tensor of bool, optional
        What is stored, zeros among it as well: a mask. Everything else must be zero. By default
        what is not zero. It is found again by `Packed.pattern`.
    deflated : bool, default False
        Huffman-code index and codes where that is smaller: fewer bytes, a slower load.

    Returns
    -------
    Packed or None
        None where the tensor itself is smallest.

    Examples
    --------
    >>> weight = torch.zeros(64, 64)
    >>> weight[::8] = torch.randn(8, 64)
    >>> packed = pack(weight)
    >>> packed.layout, packed.nbytes, torch.equal(packed.unpack(), weight)
    ('delta 1x64', 2052, True)
    """
    dense = tensor.numel() * tensor.element_size()
    if tensor.ndim == 0 or tensor.element_size() not in INTEGERS or dense <= DESCRIPTION:
        return None
    bits = integers(tensor)
    there = _entries(tensor) if pattern is None else pattern.numpy()
    table = few_different(bits.reshape(-1))
    # Of one entry. Whatever a tile pads with is in the table or not stored at all.
    size = _entry_bytes(tensor, table, deflated)
    best = _smallest(there, size, dense - DESCRIPTION, table is not None)
    if best is None:
        return None
    packed = _stored(tensor, there, best, table, deflated)
    if pattern is not None and not torch.equal(packed.pattern(), pattern):
        # Tiles that the mask keeps in part: a layout of single entries tells which.
        single = _single(there, size)
        if single.nbytes >= dense - DESCRIPTION:
            return None
        packed = _stored(tensor, there, single, table, deflated)
    return packed if packed.nbytes + DESCRIPTION < dense else None


def _entries(tensor: Tensor) -> Array:
    """Which entries are not zero, of whatever sign."""
    bits = integers(tensor)
    # Some formats of one byte have another use for the bits of −0.
    signed = tensor.is_floating_point() and tensor.element_size() > 1
    return np.asarray((bits << 1 if signed else bits) != 0)


def _entry_bytes(tensor: Tensor, table: Array | None, deflated: bool) -> float:
    if table is None:
        return float(tensor.element_size())
    return Codebook(max(len(table), 1)).bits / 8


def _smallest(there: Array, size: float, limit: float, shared: bool) -> _Choice | None:
    """The smallest of all layouts below a limit; the earlier of two that are equal."""
    best = None
    for choice in _choices(there, size, shared):
        if choice.nbytes < limit:
            best, limit = choice, choice.nbytes
    return best


def _choices(there: Array, size: float, shared: bool) -> Iterator[_Choice]:
    if shared:
        whole = Every(there.size, 1)
        yield _Choice((1,) * there.ndim, whole, there.size * size)
    yield from _runs(there, size)
    yield _single(there, size)
    yield from _tiles(there, size)


def _single(there: Array, size: float) -> _Choice:
    """Single entries, by bitmask or by gaps."""
    return _of_tiles(there.reshape(-1), (1,) * there.ndim, 1, size)


def _of_tiles(occupied: Array, tile: Tile, width: int, size: float) -> _Choice:
    gaps = Delta.gaps(occupied)
    bits, codes = Delta.best_bits(gaps)
    mask = Bitmask(len(occupied), width, len(gaps))
    delta = Delta(len(occupied), width, len(gaps), bits, codes)
    index: Index = delta if packed_length(codes, bits) < mask.length() else mask
    return _Choice(tile, index, (index.length() or 0) + index.count * size)


def _runs(there: Array, size: float) -> Iterator[_Choice]:
    """N:M along inputs, or along the first axis where that is what a layer reads."""
    for axis in (1, 0):
        if axis >= there.ndim:
            continue
        for of in RUNS:
            if there.shape[axis] % of:
                break
            tile = tuple(of if at == axis else 1 for at in range(there.ndim))
            counts = there.reshape(*there.shape[:axis], -1, of, *there.shape[axis + 1 :])
            keep = max(int(counts.sum(axis=axis + 1, dtype=np.uint8).max(initial=0)), 1)
            if keep > of // 2:
                break
            index = Positions(there.size // of, of, keep)
            yield _Choice(tile, index, index.length() + index.count * size)


def _tiles(there: Array, size: float) -> Iterator[_Choice]:
    """Tiles that grow for as long as what they hold beside entries does not cost too much."""
    entries = int(there.sum())
    for family in _families(there.shape):
        for tile in family:
            occupied = _occupied(there, tile)
            width = prod(tile)
            if int(occupied.sum()) * width > 1.5 * entries:
                # Larger tiles of the family hold these, and more beside.
                break
            yield _of_tiles(occupied, tile, width, size)


def _occupied(there: Array, tile: Tile) -> Array:
    return np.asarray(cut_tiles(there, tile).any(axis=1))


def _families(shape: Tile) -> Iterator[list[Tile]]:
    """Rows of tiles, each of which holds the one before: vectors, blocks, kernels, whole axes."""
    if len(shape) < 2:
        return
    outputs, inputs, *kernel = shape
    ones = (1,) * len(kernel)
    steps = (4, 8, 16, 32)
    yield [(step, 1, *ones) for step in steps if step < outputs] + [(outputs, 1, *ones)]
    yield [(1, step, *ones) for step in steps if step < inputs] + [(1, inputs, *ones)]
    blocks = [(4, 4), (8, 8), (16, 16), (16, 32), (32, 32), (64, 64)]
    yield [(o, i, *ones) for o, i in blocks if o <= outputs and i <= inputs]
    if prod(kernel) > 1:
        rest = (*kernel,)
        yield [(1, 1, *rest), *((step, 1, *rest) for step in steps if step <= outputs)]
        yield [(1, inputs, *rest)]


def _stored(
    tensor: Tensor, there: Array, choice: _Choice, table: Array | None, deflated: bool
) -> Packed:
    tile, index = choice.tile, choice.index
    bits, parts = cut_tiles(integers(tensor), tile), {}
    if isinstance(index, Positions):
        at = Positions.choose(cut_tiles(there, tile), index.keep)
        parts[INDEX] = index.write(at)
        values = np.take_along_axis(bits, at.astype(np.int64), axis=1)
    elif isinstance(index, (Bitmask, Delta)):
        occupied = _occupied(there, tile)
        index, parts[INDEX] = _index_of(occupied, index, deflated)
        values = bits[np.flatnonzero(occupied)]
    else:
        values = bits
    flat = np.ascontiguousarray(values).reshape(-1)
    codebook, own = _values_of(flat, table, deflated)
    made = {name: torch.from_numpy(np.array(part)) for name, part in (parts | own).items()}
    for name in (VALUES, TABLE):
        if name in made:
            made[name] = made[name].view(tensor.dtype)
    return Packed(tuple(tensor.shape), tensor.dtype, tile, index, codebook, made)


def _index_of(
    occupied: Array, index: Bitmask | Delta, deflated: bool
) -> tuple[Bitmask | Delta, Bytes]:
    gaps = Delta.gaps(occupied)
    if isinstance(index, Delta):
        plain = pack_codes(Delta.code(gaps, index.bits), index.bits)
    else:
        plain = Bitmask.write(occupied)
    if deflated:
        codes = Delta.code(gaps, 8)
        coded = deflate(codes)
        if len(coded) < len(plain):
            return Delta(index.units, index.width, index.tiles, 8, len(codes), True), coded
    return index, plain


def _values_of(
    values: Array, table: Array | None, deflated: bool
) -> tuple[Codebook | None, dict[str, Array]]:
    if table is None:
        return None, {VALUES: values}
    # Zeros are among them where a tile stores some.
    table = np.unique(values)
    if len(table) > MOST_SHARED:
        return None, {VALUES: values}
    raw, shared = values.nbytes, Codebook(max(len(table), 1))
    codes = np.searchsorted(table, values).astype(np.uint8)
    plain = pack_codes(codes, shared.bits)
    if deflated:
        coded = deflate(codes)
        if len(coded) < len(plain):
            shared, plain = dataclasses.replace(shared, deflated=True), coded
    if not len(table) or len(plain) + table.nbytes >= raw:
        return None, {VALUES: values}
    return shared, {CODES: plain, TABLE: table}
