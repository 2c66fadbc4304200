"""The sparse runtime for CPUs: layers whose zeros cost neither time nor memory."""

from __future__ import annotations

from secateur.sparse.choices import Choice, Compiled
from secateur.sparse.compiling import compile
from secateur.sparse.convolution import SparseConv2d
from secateur.sparse.layout import Packed, pack
from secateur.sparse.library import use_variant, variant, variants
from secateur.sparse.linear import SparseLinear
from secateur.sparse.memory import keep_memory

__all__ = [
    "Choice",
    "Compiled",
    "Packed",
    "SparseConv2d",
    "SparseLinear",
    "compile",
    "keep_memory",
    "pack",
    "use_variant",
    "variant",
    "variants",
]
