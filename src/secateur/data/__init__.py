"""Data to train, calibrate and evaluate on."""

from __future__ import annotations

from secateur.data.checks import check_labels
from secateur.data.digits import load_digits
from secateur.data.lazy import ImagePart
from secateur.data.loaders import LoaderPart
from secateur.data.options import DataOptions
from secateur.data.sources import SOURCES, as_data, load_data, load_part
from secateur.data.splits import Batches, Data, Part, Split

__all__ = [
    "SOURCES",
    "Batches",
    "Data",
    "DataOptions",
    "ImagePart",
    "LoaderPart",
    "Part",
    "Split",
    "as_data",
    "check_labels",
    "load_data",
    "load_digits",
    "load_part",
]
