"""Gates over channels and over space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masking import kept
from .registry import Removed, image, net


class SqueezeExcite(nn.Module):
    """Global pooling, two 1x1 convs, a sigmoid."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(self.avgpool(x)))))


@net(image(), "conv.weight", "bn.bias", "se.fc1.weight", "se.fc2.weight", "last.weight")
class SqueezeExciteConv(nn.Module):
    """The gate's inputs and outputs are the gated channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.bn = nn.BatchNorm2d(20)
        self.se = SqueezeExcite(20, 6)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.se(F.relu(self.bn(self.conv(x)))))


@net(image(), "conv.weight", "fc.0.weight", "fc.2.weight", "last.weight")
class SqueezeExciteLinear(nn.Module):
    """By linear layers and b, c = x.shape[:2]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 18, 3, padding=1)
        self.fc = nn.Sequential(nn.Linear(18, 8), nn.ReLU(), nn.Linear(8, 18), nn.Sigmoid())
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        b, c = x.shape[:2]
        y = self.fc(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1)
        return self.last(x * y.expand_as(x))


@net(image(), "stem.weight")
class EfficientChannelAttention(nn.Module):
    """A conv over the channels themselves: they stay, the layers around them go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 22, 3, padding=1)
        self.conv = nn.Conv2d(22, 16, 3, padding=1)
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.relu(self.stem(x)))
        y = self.eca(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return self.last(x * y.transpose(1, 2).unsqueeze(-1))


def mask_cbam(dense: nn.Module, removed: Removed) -> None:
    """Take the mean and the maximum over kept channels only."""
    dense.keep = kept(dense, removed, "conv.weight")


@net(image(), "conv.weight", "mlp.0.weight", "last.weight", masked=mask_cbam)
class Cbam(nn.Module):
    """Channel gate by mean and max over space, spatial gate by mean and max over channels."""

    keep = slice(None)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.mlp = nn.Sequential(
            nn.Conv2d(20, 6, 1, bias=False), nn.ReLU(), nn.Conv2d(6, 20, 1, bias=False)
        )
        self.spatial = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x * torch.sigmoid(
            self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        )
        mean = x[:, self.keep].mean(1, keepdim=True)
        largest, _ = x[:, self.keep].max(dim=1, keepdim=True)
        return self.last(x * torch.sigmoid(self.spatial(torch.cat([mean, largest], dim=1))))


@net(image(), "conv.weight", "last.weight")
class SpatialGate(nn.Module):
    """One channel gates all of them by broadcasting, and stays."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 18, 3, padding=1)
        self.gate = nn.Conv2d(18, 1, 1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(x * torch.sigmoid(self.gate(x)))


@net(image(), "conv.weight", "key.weight", "value.0.weight", "last.weight")
class GlobalContext(nn.Module):
    """Attention pooling over space, a bottleneck, an addition (GCNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 18, 3, padding=1)
        self.key = nn.Conv2d(18, 1, 1)
        self.value = nn.Sequential(nn.Conv2d(18, 8, 1), nn.ReLU(), nn.Conv2d(8, 18, 1))
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        attention = self.key(x).flatten(2).softmax(-1)
        context = torch.matmul(attention, x.flatten(2).transpose(1, 2))
        return self.last(x + self.value(context.transpose(1, 2).unsqueeze(-1)))


@net(image(), "a.weight", "b.weight", "squeeze.weight", "expand.weight", "last.weight")
class SelectiveKernel(nn.Module):
    """A softmax over branches weighs two convs (SKNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 14, 3, padding=1)
        self.b = nn.Conv2d(3, 14, 5, padding=2)
        self.squeeze = nn.Linear(14, 9)
        self.expand = nn.Linear(9, 28)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([self.a(x), self.b(x)], dim=1)
        pooled = branches.sum(1).mean((2, 3))
        weights = self.expand(F.relu(self.squeeze(pooled))).view(x.shape[0], 2, -1).softmax(1)
        return self.last((branches * weights[:, :, :, None, None]).sum(1))


@net(image(), "a.weight", "b.weight", "last.weight")
class MutualGate(nn.Module):
    """Two convs multiply, hard-sigmoid and hard-swish in between."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 18, 3, padding=1)
        self.b = nn.Conv2d(3, 18, 1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.hardswish(self.a(x)) * F.hardsigmoid(self.b(x)))


@net(image(), "conv.weight", "h.weight", "w.weight", "last.weight")
class CoordinateAttention(nn.Module):
    """Pooling along each side, one shared conv over their concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.shared = nn.Conv2d(16, 10, 1)
        self.bn = nn.BatchNorm2d(10)
        self.h = nn.Conv2d(10, 16, 1)
        self.w = nn.Conv2d(10, 16, 1)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        height, width = x.shape[2:]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        y = F.hardswish(self.bn(self.shared(torch.cat([rows, columns], dim=2))))
        rows, columns = torch.split(y, [height, width], dim=2)
        gate = self.h(rows).sigmoid() * self.w(columns.permute(0, 1, 3, 2)).sigmoid()
        return self.last(x * gate)


@net(image(), "conv.weight", "last.weight", "experts.weight")
class SoftMixture(nn.Module):
    """A softmax router weighs four experts held in one conv."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 14, 3, padding=1)
        self.router = nn.Linear(14, 4)
        self.experts = nn.Conv2d(14, 4 * 9, 1)
        self.last = nn.Conv2d(9, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        b, _, h, w = x.shape
        weights = self.router(x.mean((2, 3))).softmax(-1)
        y = self.experts(x).view(b, 4, -1, h, w)
        return self.last((y * weights.view(b, 4, 1, 1, 1)).sum(1))
