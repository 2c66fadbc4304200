"""Prune any PyTorch model physically and exactly, and prove it."""

from __future__ import annotations

__version__ = "0.1.0"
