"""Sparse granularities: what becomes zero, chosen and counted exactly."""

from __future__ import annotations

from secateur.sparsity.nm import nm_mask
from secateur.sparsity.stripes import StripeConv2d, regroup_stripes
from secateur.sparsity.table import ROWS, SparseGranularity, as_sparse
from secateur.sparsity.tiles import Tiling
from secateur.sparsity.transposable import transposable_mask
from secateur.weights import Weight, prunable_weights

__all__ = [
    "ROWS",
    "SparseGranularity",
    "StripeConv2d",
    "Tiling",
    "Weight",
    "as_sparse",
    "nm_mask",
    "prunable_weights",
    "regroup_stripes",
    "transposable_mask",
]
