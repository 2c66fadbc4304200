"""Small whole numbers in a few bits each, or Huffman-coded bytes."""

from __future__ import annotations

import zlib

import numpy as np

from secateur.errors import FileFormatError

__all__ = ["Bytes", "deflate", "inflate", "pack_codes", "packed_length", "unpack_codes"]

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
TOGETHER = 8


def packed_length(count: int, bits: int) -> int:
    """Bytes that so many codes of so many bits take.

    Examples
    --------
    >>> packed_length(3, 5)
    2
    """
    return -(-count * bits // 8)


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Put codes side by side, the first in the lowest bits of the first byte.

    Parameters
    ----------
    codes : ndarray of uint8, shape [n]
        Each below ``2 ** bits``.
    bits : int
        1 to 8.

    Returns
    -------
    ndarray of uint8, shape [⌈n · bits / 8⌉]
        Bits that are left over are 0.

    Examples
    --------
    >>> pack_codes(np.array([1, 2, 3], np.uint8), 4).tolist()
    [33, 3]
    """
    if bits == 8:
        return codes
    # Eight codes fill `bits` bytes, whatever the number of bits.
    groups = -(-len(codes) // TOGETHER)
    padded = np.zeros(groups * TOGETHER, np.uint8)
    padded[: len(codes)] = codes
    words = np.zeros(groups, np.uint64)
    for place, column in enumerate(padded.reshape(groups, TOGETHER).T):
        words |= column.astype(np.uint64) << np.uint64(bits * place)
    packed = words.astype("<u8").view(np.uint8).reshape(groups, TOGETHER)[:, :bits]
    return np.ascontiguousarray(packed).reshape(-1)[: packed_length(len(codes), bits)]


def unpack_codes(packed: Bytes, bits: int, count: int) -> Bytes:
    """The reverse of `pack_codes`.

    Raises
    ------
    FileFormatError
        Where the bytes are not those of so many codes, or bits that are left over are not 0.

    Examples
    --------
    >>> unpack_codes(np.array([33, 3], np.uint8), 4, 3).tolist()
    [1, 2, 3]
    """
    if len(packed) != packed_length(count, bits):
        raise FileFormatError(f"{count} codes of {bits} bits are not {len(packed)} bytes")
    if bits == 8:
        return packed
    groups = -(-count // TOGETHER)
    padded = np.zeros((groups, bits), np.uint8)
    padded.reshape(-1)[: len(packed)] = packed
    words = np.zeros(groups, np.uint64)
    for place in range(bits):
        words |= padded[:, place].astype(np.uint64) << np.uint64(8 * place)
    codes = np.empty((groups, TOGETHER), np.uint8)
    mask = np.uint64((1 << bits) - 1)
    for place in range(TOGETHER):
        codes[:, place] = (words >> np.uint64(bits * place)) & mask
    flat = codes.reshape(-1)
    if flat[count:].any():
        raise FileFormatError("bits after the last code are not 0")
    return flat[:count]


def deflate(data: Bytes) -> Bytes:
    """Huffman-code bytes (RFC 1951 without matches).

    Codes of gaps and of shared weights hardly ever repeat in a row, so that a search for repeats
    costs time and finds nothing. The standard library's zlib is enough for that, is there
    everywhere, and decodes fast.

    Examples
    --------
    >>> len(deflate(np.zeros(8000, np.uint8))) < 1100
    True
    """
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    coded = coder.compress(np.ascontiguousarray(data).data) + coder.flush()
    return np.frombuffer(coded, np.uint8)


def inflate(coded: Bytes, length: int) -> Bytes:
    """The reverse of `deflate`; never more than was said is taken in, whatever a file claims.

    Raises
    ------
    FileFormatError
        Where the bytes are damaged, or are of another length than was said.
    """
    reader = zlib.decompressobj(-15)
    try:
        data = reader.decompress(np.ascontiguousarray(coded).data, length + 1)
    except zlib.error as error:
        raise FileFormatError(f"Huffman-coded bytes are damaged ({error})") from error
    if len(data) != length or not reader.eof or reader.unused_data:
        raise FileFormatError(f"Huffman-coded bytes are not the {length} that they should be")
    return np.frombuffer(data, np.uint8)
