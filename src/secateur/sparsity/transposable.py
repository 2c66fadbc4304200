"""Transposable N:M masks: N of M along the inputs and along the outputs, for W and its transpose.

Training multiplies by both; a mask that is N:M both ways lets sparse hardware do either.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.sparsity.flow import assigned
from secateur.sparsity.nm import check_runs

__all__ = ["tile_patterns", "transposable_mask"]

# Up to this M all patterns of a tile are compared; beyond, a flow finds the best.
ENUMERATED = 4
# Tiles at once: the sums of all patterns then stay in cache.
CHUNK = 1 << 11


def transposable_mask(scores: Tensor, keep: int, of: int) -> Tensor:
    """The mask of the highest total score that is N:M along inputs and along outputs.

    Every tile of ``of`` outputs by ``of`` inputs, at every kernel position, keeps ``keep``
    entries in each row and each column. A tile cut short at an edge is filled up with zeros
    first, so it keeps at most as many. Of 2:4 there are 90 patterns, and the best of them is
    taken; beyond 4 a minimum-cost flow finds the best. (Greedy choice can stall before a tile is
    full, and can fall a fifth short.)

    Parameters
    ----------
    scores : Tensor, shape [outputs, inputs, *kernel]
        Finite. Negative ones are lifted so that the lowest is zero.
    keep, of : int
        ``keep`` of ``of`` stay.

    Returns
    -------
    Tensor of bool
        True where kept; of the shape and on the device of the scores.

    Raises
    ------
    InputError
        Unless ``1 <= keep <= of`` and ``of >= 2``, or for scores that are not finite.

    References
    ----------
    Hubara et al. 2021, "Accelerated Sparse Neural Training" (arXiv:2102.08124).

    Examples
    --------
    >>> mask = transposable_mask(torch.arange(16.0).reshape(4, 4), 2, 4)
    >>> mask.sum(0).tolist(), mask.sum(1).tolist()
    ([2, 2, 2, 2], [2, 2, 2, 2])
    """
    check_runs(scores, keep, of)
    if not bool(torch.isfinite(scores).all()):
        raise InputError("scores hold NaN or infinity, so nothing can be ranked by them")
    if scores.device.type == "mps":
        # It has no double precision.
        return transposable_mask(scores.cpu(), keep, of).to(scores.device)
    # Matrices of outputs by inputs, one for every kernel position.
    planes = scores.movedim((0, 1), (-2, -1))
    outputs, inputs = planes.shape[-2:]
    high, wide = -(-outputs // of), -(-inputs // of)
    mask = torch.zeros(planes.shape, dtype=torch.bool, device=scores.device)
    lowest = min(float(scores.min()), 0.0) if scores.numel() else 0.0
    tall = max(1, CHUNK // max(wide, 1))
    for plane, out in zip(
        planes.reshape(-1, outputs, inputs), mask.view(-1, outputs, inputs), strict=True
    ):
        for top in range(0, high, tall):
            rows = slice(top * of, min((top + tall) * of, outputs))
            part = plane[rows].double() - lowest
            count = -(-part.shape[0] // of)
            padded = torch.nn.functional.pad(
                part, (0, wide * of - inputs, 0, count * of - part.shape[0])
            )
            tiles = padded.reshape(count, of, wide, of).transpose(1, 2).reshape(-1, of, of)
            kept = _best(tiles, keep).reshape(count, wide, of, of).transpose(1, 2)
            out[rows] = kept.reshape(count * of, wide * of)[: part.shape[0], :inputs]
    return mask.movedim((-2, -1), (0, 1))


def _best(tiles: Tensor, keep: int) -> Tensor:
    """The best pattern of every tile, ``[tiles, of, of]`` of bool."""
    of = tiles.shape[-1]
    if of > ENUMERATED:
        return assigned(tiles.cpu(), keep).to(tiles.device)
    patterns = tile_patterns(keep, of).to(tiles.device)
    totals = tiles.flatten(1) @ patterns.flatten(1).T.to(tiles.dtype)
    # Of equal sums the first wins, and patterns come in the order that gives up low indices first.
    return patterns[totals.argmax(dim=1)]


@functools.cache
def tile_patterns(keep: int, of: int) -> Tensor:
    """Every ``[of, of]`` pattern whose rows and columns keep so many, ``[patterns, of, of]``.

    Examples
    --------
    >>> len(tile_patterns(2, 4)), len(tile_patterns(1, 4))
    (90, 24)
    """
    lines = [[at in kept for at in range(of)] for kept in itertools.combinations(range(of), keep)]
    lines.sort()
    assert math.comb(of, keep) ** of <= 1 << 16, "too many patterns to enumerate"
    found = [
        rows
        for rows in itertools.product(lines, repeat=of)
        if all(sum(column) == keep for column in zip(*rows, strict=True))
    ]
    return torch.tensor(found)
