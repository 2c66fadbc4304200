"""Masks as text: a bit an entry, compressed."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["pack", "unpack"]


def pack(mask: Tensor) -> str:
    """A bool tensor's entries in order, as text.

    Examples
    --------
    >>> mask = torch.tensor([[True, False], [False, True]])
    >>> torch.equal(unpack(pack(mask), [2, 2]), mask)
    True
    """
    bits = np.packbits(mask.detach().cpu().flatten().numpy())
    return base64.b64encode(zlib.compress(bits.tobytes(), 6)).decode("ascii")


def unpack(text: str, shape: Sequence[int]) -> Tensor:
    """The reverse of `pack`.

    Raises
    ------
    ValueError
        Where the text does not hold a mask of this shape.
    """
    if any(size < 0 for size in shape):
        raise ValueError(f"no mask has the shape {list(shape)}")
    count = math.prod(shape)
    wanted = -(-count // 8)
    reader = zlib.decompressobj()
    try:
        # Not a byte more than wanted is taken in, whatever a file claims.
        data = reader.decompress(base64.b64decode(text, validate=True), wanted + 1)
    except zlib.error as error:
        raise ValueError(f"a mask is damaged: {error}") from error
    if len(data) != wanted:
        raise ValueError(f"a mask of {list(shape)} has {len(data)} bytes where {wanted} are due")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=count)
    return torch.from_numpy(bits.astype(bool)).reshape(tuple(shape))
