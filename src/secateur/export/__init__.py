"""Ship a model in the form that a runtime reads."""

from __future__ import annotations

from secateur.export.onnx import Exported, export

__all__ = ["Exported", "export"]
