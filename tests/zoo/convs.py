"""Grouped, depthwise, dilated and 1-d, 2-d and 3-d convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import floats, image, net


class Grouped(nn.Module):
    """A grouped conv between a plain one and a head."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.grouped = nn.Conv2d(channels, out, 3, padding=1, groups=groups)
        self.last = nn.Conv2d(out, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.grouped(F.relu(self.bn(self.first(x))))))


@net(image(), "first.weight", "grouped.weight", "last.weight", name="grouped_4_8")
def grouped_4_8() -> nn.Module:
    """Four channels a group become eight."""
    return Grouped(16, 32, 4)


@net(image(), "first.weight", "grouped.weight", "last.weight", name="grouped_8_4")
def grouped_8_4() -> nn.Module:
    """Eight channels a group become four."""
    return Grouped(24, 12, 3)


@net(image(), "first.weight", "grouped.weight", "last.weight", name="grouped_3_2")
def grouped_3_2() -> nn.Module:
    """Three channels a group become two."""
    return Grouped(15, 10, 5)


@net(image(), "first.weight", "grouped.weight", "last.weight", name="depthwise")
def depthwise() -> nn.Module:
    """One channel a group."""
    return Grouped(18, 18, 18)


@net(image(), "first.weight", "grouped.weight", "last.weight", name="depthwise_multiplier_2")
def depthwise_multiplier_2() -> nn.Module:
    """One channel a group becomes two adjacent ones."""
    return Grouped(12, 24, 12)


@net(image(), "a.weight", "b.weight", "grouped.weight", "last.weight")
class GroupedAfterCat(nn.Module):
    """The groups do not end where the branches do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 10, 3, padding=1)
        self.b = nn.Conv2d(3, 14, 1)
        self.grouped = nn.Conv2d(24, 16, 3, padding=1, groups=4)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.grouped(torch.cat([self.a(x), self.b(x)], 1))))


@net(image(), "first.weight", "grouped.weight", "last.weight")
class ResNextBlock(nn.Module):
    """A grouped bottleneck in a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 20, 3, padding=1)
        self.reduce = nn.Conv2d(20, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.bn = nn.BatchNorm2d(16)
        self.expand = nn.Conv2d(16, 20, 1)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = F.relu(self.bn(self.grouped(F.relu(self.reduce(x)))))
        return self.last(F.relu(x + self.expand(y)))


@net(image(), "first.weight", "a.weight", "b.weight")
class TwoGroupings(nn.Module):
    """The same channels in two groups for one conv and in three for another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Conv2d(24, 12, 3, padding=1, groups=2)
        self.b = nn.Conv2d(24, 12, 1, groups=3)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(F.relu(self.a(x) + self.b(x)))


@net(image(), "stem.weight")
class GroupedOnInput(nn.Module):
    """A grouped conv reads the model's input, which stays."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 18, 3, padding=1, groups=3)
        self.stem = nn.Conv2d(18, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.stem(F.relu(self.grouped(x)))))


@net(floats(2, 4, 15), "first.weight", "grouped.weight", "last.weight")
class Conv1d(nn.Module):
    """1-d, dilated and grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 16, 5, dilation=2, padding=4)
        self.bn = nn.BatchNorm1d(16)
        self.grouped = nn.Conv1d(16, 12, 3, stride=2, groups=2)
        self.last = nn.Conv1d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.elu(self.grouped(F.relu(self.bn(self.first(x))))))


@net(floats(2, 2, 4, 6, 5), "first.weight", "depthwise.weight", "last.weight")
class Conv3d(nn.Module):
    """3-d, with a depthwise one, batch norm and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(2, 14, 3, padding=1)
        self.bn = nn.BatchNorm3d(14)
        self.pool = nn.MaxPool3d(2)
        self.depthwise = nn.Conv3d(14, 14, 3, padding=1, groups=14)
        self.last = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn(self.first(x))))
        return self.last(F.adaptive_avg_pool3d(self.depthwise(x), 1).flatten(1))


@net(image(), "net.0.weight", "net.3.weight", "net.6.weight")
class ReflectPadding(nn.Module):
    """padding_mode, same padding, asymmetric kernels and every kind of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 14, 3, padding=1, padding_mode="reflect"),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(3, 1, 1, ceil_mode=True),
            nn.Conv2d(14, 18, (1, 5), padding="same"),
            nn.PReLU(18),
            nn.AvgPool2d(2),
            nn.Conv2d(18, 12, (3, 1), padding=(1, 0), padding_mode="circular"),
            nn.Dropout2d(0.1),
            nn.LPPool2d(2, 2),
            nn.Conv2d(12, 5, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@net(image(), "first.weight", "last.weight")
class PreluPerChannel(nn.Module):
    """A slope per channel, and a single slope for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.slopes = nn.PReLU(18)
        self.mid = nn.Conv2d(18, 14, 1)
        self.slope = nn.PReLU()
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.slope(self.mid(self.slopes(self.first(x)))))


@net(image(), "a.weight", "b.weight", "last.weight")
class PoolingBranches(nn.Module):
    """Inception's parallel pooling, spatial pyramid pooling and fractional sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 10, 3, padding=1)
        self.b = nn.Conv2d(10, 8, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.last = nn.Conv2d(10 * 3 + 8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.a(x))
        y = self.pool(x)
        z = self.pool(y)
        w = F.avg_pool2d(self.b(x), 3, 1, 1, count_include_pad=False)
        return self.last(torch.cat((x, y, z, w), 1))


@net(image(), "first.weight", "second.weight", "last.weight")
class UnfoldPatches(nn.Module):
    """F.unfold: channels and kernel positions flattened together."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 1)
        self.second = nn.Linear(10 * 4, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(F.relu(self.first(x)), 2, stride=2).transpose(1, 2)
        return self.last(F.relu(self.second(x)))
