"""Data to train, calibrate and evaluate on."""

from __future__ import annotations

from secateur.data.digits import load_digits
from secateur.data.sources import SOURCES, load_data
from secateur.data.splits import Batches, Data, Split

__all__ = ["SOURCES", "Batches", "Data", "Split", "load_data", "load_digits"]
