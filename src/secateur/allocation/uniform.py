"""Uniform: every group loses the same share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.allocation.base import ALLOCATIONS, Allocation, GroupScores

__all__ = ["Uniform"]


@ALLOCATIONS.register("uniform")
class Uniform(Allocation):
    """The same share of every group: the baseline, and what FPGM's published results use.

    Examples
    --------
    >>> wide = GroupScores("wide", np.array([4.0, 3.0, 2.0, 1.0]))
    >>> small = GroupScores("small", np.array([0.1, 0.2]))
    >>> Uniform().order([wide, small])
    [(0, 3), (1, 0), (0, 2), (0, 1), (1, 1), (0, 0)]
    """

    name = "uniform"

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return shares

    def sparsities(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float] | None:
        return [sparsity] * len(shapes)
