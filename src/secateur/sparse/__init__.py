"""Sparse granularities: what becomes zero, chosen and counted exactly."""

from __future__ import annotations

from secateur.sparse.nm import nm_mask
from secateur.sparse.table import ROWS, SparseGranularity, as_sparse
from secateur.sparse.tiles import Tiling
from secateur.sparse.transposable import transposable_mask
from secateur.weights import Weight, prunable_weights

__all__ = [
    "ROWS",
    "SparseGranularity",
    "Tiling",
    "Weight",
    "as_sparse",
    "nm_mask",
    "prunable_weights",
    "transposable_mask",
]
