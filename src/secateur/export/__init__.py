"""Ship a model in the form that a runtime reads."""

from __future__ import annotations

from secateur.export.onnx import Exported, export
from secateur.export.quantized import Quantized, quantize

__all__ = ["Exported", "Quantized", "export", "quantize"]
