"""Letting a model's configuration say what the model is after surgery."""

from __future__ import annotations

from secateur.configs.following import Configured, configured

__all__ = ["Configured", "configured"]
