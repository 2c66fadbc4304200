"""Weights and activations in 8-bit integers: while training, and in PyTorch itself afterwards."""

from __future__ import annotations

from secateur.quantization.aware import QuantizationAware, quantize_aware
from secateur.quantization.eager import quantize_linear

__all__ = ["QuantizationAware", "quantize_aware", "quantize_linear"]
