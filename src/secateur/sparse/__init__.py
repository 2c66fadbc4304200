"""The sparse runtime for CPUs: layers whose zeros cost neither time nor memory."""

from __future__ import annotations

from secateur.sparse.convolution import SparseConv2d
from secateur.sparse.layout import Packed, pack
from secateur.sparse.library import use_variant, variant, variants
from secateur.sparse.linear import SparseLinear

__all__ = [
    "Packed",
    "SparseConv2d",
    "SparseLinear",
    "pack",
    "use_variant",
    "variant",
    "variants",
]
