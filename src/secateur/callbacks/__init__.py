"""Regularizers and dynamic methods inside the training loops that people have."""

from __future__ import annotations

from secateur.callbacks.huggingface import huggingface_callback
from secateur.callbacks.lightning import lightning_callback
from secateur.callbacks.plain import Followers, follow

__all__ = ["Followers", "follow", "huggingface_callback", "lightning_callback"]
