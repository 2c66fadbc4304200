"""Tensors with zeros as few bytes: which layout a tensor is smallest in, and back again."""

from __future__ import annotations

from secateur.packing.packed import Packed
from secateur.packing.smallest import pack

__all__ = ["Packed", "pack"]
