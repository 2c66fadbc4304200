"""Models by name, and the small one of the demo."""

from __future__ import annotations

from secateur.models import libraries  # noqa: F401  (registers the sources)
from secateur.models.opening import open_model
from secateur.models.resnet import SmallResNet, small_resnet
from secateur.models.sources import SOURCES, Loaded, load_model, model_names

__all__ = [
    "SOURCES",
    "Loaded",
    "SmallResNet",
    "load_model",
    "model_names",
    "open_model",
    "small_resnet",
]
