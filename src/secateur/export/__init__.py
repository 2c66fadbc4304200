"""Ship a model in the form that a runtime reads."""

from __future__ import annotations

from secateur.export.onnx import Exported
from secateur.export.quantized import Quantized, quantize
from secateur.export.targets import TARGETS, export
from secateur.export.tensorrt import trtexec_line

__all__ = ["TARGETS", "Exported", "Quantized", "export", "quantize", "trtexec_line"]
