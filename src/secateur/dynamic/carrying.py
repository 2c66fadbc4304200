"""Layers that handle every unit by itself: batch norms and depthwise convolutions."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.dynamic.flow import Choice
from secateur.dynamic.lanes import along
from secateur.dynamic.links import Links, convolved, held

__all__ = [
    "GatedBatchNorm1d",
    "GatedBatchNorm2d",
    "GatedBatchNorm3d",
    "GatedDepthwise1d",
    "GatedDepthwise2d",
    "GatedDepthwise3d",
]


class _Depthwise(nn.Module):
    """A convolution of every channel by itself."""

    links: Links

    def forward(self, x: Tensor) -> Tensor:
        lanes = self.links.carries
        chosen = lanes.choice(present=True) if lanes is not None and lanes.skips else None
        if chosen is None:
            plain: Tensor = super().forward(x)
            return plain
        weight, bias = held(self)
        weight = chosen.take(weight, 0)
        bias = None if bias is None else chosen.take(bias, 0)
        return convolved(self, x, weight, bias, len(chosen))


class GatedDepthwise1d(_Depthwise, nn.Conv1d):
    """A depthwise convolution that follows gates."""


class GatedDepthwise2d(_Depthwise, nn.Conv2d):
    """A depthwise convolution that follows gates."""


class GatedDepthwise3d(_Depthwise, nn.Conv3d):
    """A depthwise convolution that follows gates."""


class _Normalising(nn.Module):
    """A batch norm; a gate's scale takes the place of its own, and its bias is added after."""

    links: Links

    def forward(self, x: Tensor) -> Tensor:
        lanes = self.links.carries
        chosen = lanes.choice(present=True) if lanes is not None and lanes.skips else None
        if chosen is None:
            return self._scaled(super().forward(x))
        norm = cast("nn.BatchNorm2d", self)
        parts = [
            None if each is None else chosen.take(each, 0)
            for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        ]
        mean, variance, weight, bias = parts
        y = functional.batch_norm(x, mean, variance, weight, bias, mean is None, 0.0, norm.eps)
        return self._scaled(y, chosen)

    def _scaled(self, y: Tensor, chosen: Choice | None = None) -> Tensor:
        """The output times the gate's scale; the bias is no part of what is scaled."""
        gate = self.links.scales
        if gate is None or gate.decision is None or gate.decision.scale is None:
            return y
        scale: Tensor = gate.decision.scale.to(y.dtype)
        _, bias = held(self)
        if chosen is not None:
            scale = chosen.take(scale, 1)
            bias = None if bias is None else chosen.take(bias, 0)
        scale = along(scale, y, 1)
        if bias is None:
            return y * scale
        bias = along(bias[None], y, 1)
        return torch.addcmul(bias * (1 - scale), y, scale)


class GatedBatchNorm1d(_Normalising, nn.BatchNorm1d):
    """A batch norm that follows gates."""


class GatedBatchNorm2d(_Normalising, nn.BatchNorm2d):
    """A batch norm that follows gates."""


class GatedBatchNorm3d(_Normalising, nn.BatchNorm3d):
    """A batch norm that follows gates."""
