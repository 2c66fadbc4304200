"""Transposed convolutions, interpolation, pixel shuffle and unshuffle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import floats, image, net


class Transposed(nn.Module):
    """A transposed conv between a plain one and a head."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(channels, out, 2, stride=2, groups=groups)
        self.bn = nn.BatchNorm2d(out)
        self.last = nn.Conv2d(out, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.bn(self.up(F.relu(self.first(x))))))


@net(image(), "first.weight", "up.weight", "bn.weight", "last.weight", name="transposed")
def transposed() -> nn.Module:
    """Plain: the weight is [in, out, ...]."""
    return Transposed(20, 14, 1)


@net(image(), "first.weight", "up.weight", "last.weight", name="transposed_grouped")
def transposed_grouped() -> nn.Module:
    """Grouped: the output axis holds one group's channels."""
    return Transposed(18, 12, 3)


@net(image(), "first.weight", "up.weight", "last.weight", name="transposed_depthwise")
def transposed_depthwise() -> nn.Module:
    """Depthwise."""
    return Transposed(16, 16, 16)


@net(image(), "first.weight", "up.weight", "last.weight", name="transposed_multiplier")
def transposed_multiplier() -> nn.Module:
    """Depthwise with three outputs each."""
    return Transposed(8, 24, 8)


@net(floats(2, 3, 9), "first.weight", "up.weight", "last.weight")
class Transposed1d(nn.Module):
    """1-d, with output padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 12, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.Conv1d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.up(self.first(x))))


@net(floats(2, 2, 3, 4, 3), "first.weight", "up.weight", "last.weight")
class Transposed3d(nn.Module):
    """3-d."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(2, 14, 3, padding=1)
        self.up = nn.ConvTranspose3d(14, 10, 2, stride=2)
        self.last = nn.Conv3d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.up(self.first(x))))


@net(image(), "first.weight", "last.weight")
class PixelShuffle(nn.Module):
    """Four adjacent channels become one of four times the area."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4 * 9, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(9, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.shuffle(self.first(x))))


@net(image(), "first.weight", "last.weight")
class PixelUnshuffle(nn.Module):
    """One channel becomes four adjacent ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 14, 3, padding=1)
        self.bn = nn.BatchNorm2d(56)
        self.last = nn.Conv2d(56, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bn(F.pixel_unshuffle(self.first(x), 2)))


@net(image(), "body.weight")
class PixelShuffleToOutput(nn.Module):
    """Super-resolution: what is shuffled is the output, the body is free."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 18, 3, padding=1)
        self.tail = nn.Conv2d(18, 3 * 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.tail(F.relu(self.body(x))))


@net(image(), "first.weight", "second.weight", "last.weight")
class SpaceToDepthBySlices(nn.Module):
    """YOLO's focus: four strided slices of space concatenated over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.second = nn.Conv2d(40, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat(
            [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1
        )
        return self.last(F.silu(self.second(x)))


@net(image(), "first.weight", "lateral.weight", "last.weight")
class InterpolateAndAdd(nn.Module):
    """Nearest upsampling onto a lateral connection (a feature pyramid)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, stride=2, padding=1)
        self.lateral = nn.Conv2d(3, 18, 1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.first(x), size=x.shape[-2:], mode="nearest")
        return self.last(F.relu(y + self.lateral(x)))


@net(image(), "first.weight", "second.weight", "last.weight")
class InterpolateModes(nn.Module):
    """Bilinear by nn.Upsample, bicubic and area by F.interpolate."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.second = nn.Conv2d(12, 16, 1)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.up(self.first(x)), scale_factor=0.5, mode="bicubic")
        return self.last(F.interpolate(F.relu(self.second(x)), (4, 3), mode="area"))


@net(floats(2, 3, 9), "first.weight", "last.weight")
class InterpolateLinear(nn.Module):
    """1-d, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 16, 3, padding=1)
        self.last = nn.Conv1d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.interpolate(self.first(x), scale_factor=2, mode="linear"))


@net(image(), "first.weight", "flow.0.weight", "last.weight")
class GridSample(nn.Module):
    """A learnt sampling grid: its two coordinates stay, what is sampled may shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 14, 3, padding=1)
        self.flow = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.Tanh(), nn.Conv2d(12, 2, 1))
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.tanh(self.flow(x)).permute(0, 2, 3, 1)
        return self.last(F.grid_sample(self.first(x), grid, align_corners=False))
