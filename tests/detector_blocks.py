"""Building blocks of one-stage detectors, from the published descriptions of their wiring.

References
----------
Wang et al., "CSPNet: A New Backbone that can Enhance Learning Capability of CNN", 2020.
Wang et al., "YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information",
2024 (the layer-aggregation block).
Ge et al., "YOLOX: Exceeding YOLO Series in 2021", 2021 (the focus stem).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "Aggregation",
    "AttentionStage",
    "AttributeSplitStage",
    "ConvUnit",
    "CrossStage",
    "Focus",
    "HalvedDown",
    "PointwiseDown",
    "PyramidPool",
    "SplitStage",
]


class ConvUnit(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class Residual(nn.Module):
    """Two convolutions, with the input added back where ``shortcut`` says so."""

    def __init__(self, channels: int, shortcut: bool = True, kernels: Sequence[int] = (3, 3)):
        super().__init__()
        self.first = ConvUnit(channels, channels, kernels[0])
        self.second = ConvUnit(channels, channels, kernels[1])
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class CrossStage(nn.Module):
    """Cross-stage partial block with three convolutions: two branches, one of them deep (v5)."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        hidden = outputs // 2
        self.deep = ConvUnit(inputs, hidden)
        self.bypass = ConvUnit(inputs, hidden)
        self.blocks = nn.Sequential(
            *(Residual(hidden, shortcut, kernels=(1, 3)) for _ in range(depth))
        )
        self.merge = ConvUnit(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat((self.blocks(self.deep(x)), self.bypass(x)), dim=1))


class SplitStage(nn.Module):
    """One convolution split in two; every intermediate of the second half is kept (v8)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        depth: int = 1,
        shortcut: bool = False,
        block: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.hidden = outputs // 2
        self.expand = ConvUnit(inputs, 2 * self.hidden)
        make = block or (lambda channels: Residual(channels, shortcut))
        self.blocks = nn.ModuleList(make(self.hidden) for _ in range(depth))
        self.merge = ConvUnit((2 + depth) * self.hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.expand(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.merge(torch.cat(parts, 1))


class AttributeSplitStage(SplitStage):
    """The same stage with the sizes of its split read from an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.expand(x).split((self.hidden, self.hidden), 1))
        parts.extend(block(parts[-1]) for block in self.blocks)  # the list grows as it is read
        return self.merge(torch.cat(parts, 1))


class PyramidPool(nn.Module):
    """The same max-pooling three times over, all four scales concatenated."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = inputs // 2
        self.reduce = ConvUnit(inputs, hidden)
        self.merge = ConvUnit(4 * hidden, outputs)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        scales = [self.reduce(x)]
        for _ in range(3):
            scales.append(self.pool(scales[-1]))
        return self.merge(torch.cat(scales, 1))


class MapAttention(nn.Module):
    """Self-attention over a feature map: fused qkv with narrow keys, and a depthwise position."""

    def __init__(self, channels: int, heads: int, key_ratio: float = 0.5) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = channels // heads
        self.key_dim = int(self.head_dim * key_ratio)
        self.scale = self.key_dim**-0.5
        width = channels + 2 * self.key_dim * heads
        self.qkv = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.position = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).view(batch, self.heads, 2 * self.key_dim + self.head_dim, height * width)
        query, key, value = qkv.split((self.key_dim, self.key_dim, self.head_dim), dim=2)
        weights = (query.transpose(-2, -1) @ key * self.scale).softmax(-1)
        mixed = (value @ weights.transpose(-2, -1)).view(batch, channels, height, width)
        return self.project(mixed + self.position(value.reshape(batch, channels, height, width)))


class AttentionStage(nn.Module):
    """Half the channels pass an attention block and a feed-forward block (v10, v11)."""

    def __init__(self, channels: int, heads: int, depth: int = 1) -> None:
        super().__init__()
        self.hidden = channels // 2
        self.expand = ConvUnit(channels, 2 * self.hidden)
        self.attention = nn.ModuleList(MapAttention(self.hidden, heads) for _ in range(depth))
        self.feed_forward = nn.ModuleList(
            nn.Sequential(
                ConvUnit(self.hidden, 2 * self.hidden),
                nn.Conv2d(2 * self.hidden, self.hidden, 1, bias=False),
                nn.BatchNorm2d(self.hidden),
            )
            for _ in range(depth)
        )
        self.merge = ConvUnit(2 * self.hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        kept, x = self.expand(x).split((self.hidden, self.hidden), dim=1)
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x = x + attention(x)
            x = x + feed_forward(x)
        return self.merge(torch.cat((kept, x), 1))


class Aggregation(nn.Module):
    """A split whose halves, and two further cross-stage outputs, are concatenated (v9)."""

    def __init__(self, inputs: int, outputs: int, inner: int, branch: int) -> None:
        super().__init__()
        self.expand = ConvUnit(inputs, inner)
        self.first = nn.Sequential(CrossStage(inner // 2, branch), ConvUnit(branch, branch, 3))
        self.second = nn.Sequential(CrossStage(branch, branch), ConvUnit(branch, branch, 3))
        self.merge = ConvUnit(inner + 2 * branch, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.expand(x).chunk(2, 1))
        for stage in (self.first, self.second):
            parts.append(stage(parts[-1]))
        return self.merge(torch.cat(parts, 1))


class HalvedDown(nn.Module):
    """Downsampling by two routes: half the channels strided, half pooled (v9)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.strided = ConvUnit(inputs // 2, outputs // 2, 3, 2)
        self.pooled = ConvUnit(inputs // 2, outputs // 2)
        self.smooth = nn.AvgPool2d(2, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.smooth(x).chunk(2, 1)
        return torch.cat((self.strided(left), self.pooled(self.pool(right))), 1)


class PointwiseDown(nn.Module):
    """Downsampling as a pointwise, then a depthwise strided convolution (v10)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pointwise = ConvUnit(inputs, outputs)
        self.depthwise = ConvUnit(outputs, outputs, 3, 2, groups=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.depthwise(self.pointwise(x))


class Focus(nn.Module):
    """Every second pixel becomes a channel, before the first convolution (YOLOX)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvUnit(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = (x[..., ::2, :], x[..., 1::2, :])
        return self.conv(torch.cat([r[..., c::2] for c in (0, 1) for r in rows], dim=1))
