"""Models by name, and the small one of the demo."""

from __future__ import annotations

from secateur.models.resnet import SmallResNet, small_resnet

__all__ = ["SmallResNet", "small_resnet"]
