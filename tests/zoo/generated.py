"""Weights that are slices, products or mixtures of others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


@net(image(), "first.weight", "last.weight")
class ConditionalConv(nn.Module):
    """A bank of filters mixed per sample, the batch folded into groups (CondConv)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 20, 3, padding=1)
        self.narrow = nn.Conv2d(20, 8, 1)
        self.routing = nn.Linear(8, 3)
        self.bank = nn.Parameter(torch.randn(3, 12 * 8 * 3 * 3) * 0.1)
        self.wide = nn.Conv2d(12, 18, 1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(F.relu(self.first(x)))
        b, c, h, w = x.shape
        weights = torch.sigmoid(self.routing(x.mean((2, 3))))
        kernels = torch.matmul(weights, self.bank).view(b * 12, c, 3, 3)
        x = F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b)
        return self.last(F.relu(self.wide(x.view(b, 12, h, w))))


@net(tokens(5, 10), "first.weight", "weight", "last.weight")
class SlicesOfOneWeight(nn.Module):
    """Three thirds of one parameter are three layers, cut by its own shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 16)
        self.weight = nn.Parameter(torch.randn(36, 16) * 0.2)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        third = self.weight.shape[0] // 3
        a = F.linear(x, self.weight[:third])
        b = F.linear(x, self.weight[third : 2 * third])
        return self.last(a * torch.sigmoid(b) + F.linear(x, self.weight[-third:]))


@net(image(), "hidden.weight", "encode")
class TiedConvs(nn.Module):
    """One kernel encodes by a conv and decodes by a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Parameter(torch.randn(20, 3, 3, 3) * 0.2)
        self.hidden = nn.Conv2d(20, 20, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.encode, padding=1))
        return F.conv_transpose2d(self.hidden(x), self.encode, padding=1)


@net(tokens(5, 10), "first.weight", "prototypes")
class CosineClassifier(nn.Module):
    """Features and class weights of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 22)
        self.prototypes = nn.Parameter(torch.randn(6, 22))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.first(x)[:, 0]), F.normalize(self.prototypes)) * 8


@net(tokens(5, 10), "first.weight")
class Distances(nn.Module):
    """Distances to learnt centres; cdist may protect the width, the layer before it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 22)
        self.second = nn.Linear(22, 12)
        self.centres = nn.Parameter(torch.randn(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.second(F.relu(self.first(x))), self.centres)


@net(image(), "a.weight", "b.weight", "last.weight")
class WeightedFusion(nn.Module):
    """Branches weighed by normalised scalars (BiFPN)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 18, 3, padding=1)
        self.b = nn.Conv2d(3, 18, 1)
        self.weights = nn.Parameter(torch.ones(2))
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        w = F.relu(self.weights)
        w = w / (w.sum() + 1e-4)
        return self.last(F.silu(w[0] * self.a(x) + w[1] * self.b(x)))


@net(image(), "first.weight", "squeeze.weight", "last.weight")
class DynamicKernel(nn.Module):
    """A depthwise kernel per sample from a small network (involution's cousin)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.squeeze = nn.Linear(12, 10)
        self.kernel = nn.Linear(10, 12 * 9)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        kernel = self.kernel(F.relu(self.squeeze(x.mean((2, 3))))).view(b * c, 1, 3, 3)
        x = F.conv2d(x.reshape(1, b * c, h, w), kernel, padding=1, groups=b * c)
        return self.last(F.relu(x.view(b, c, h, w)))


@net(image(), "reparam.dense.weight", "first.weight", "last.weight")
class Reparameterised(nn.Module):
    """A 3x3 and a padded 1x1 kernel and an identity summed in forward (RepVGG)."""

    class Conv(nn.Module):
        """Three branches merged into one kernel."""

        def __init__(self, channels: int, out: int) -> None:
            super().__init__()
            self.dense = nn.Conv2d(channels, out, 3, padding=1)
            self.point = nn.Conv2d(channels, out, 1, bias=False)
            self.scale = nn.Parameter(torch.ones(out))

        def forward(self, x: Tensor) -> Tensor:
            weight = self.dense.weight + F.pad(self.point.weight, [1, 1, 1, 1])
            weight = weight * self.scale.view(-1, 1, 1, 1)
            return F.conv2d(x, weight, self.dense.bias * self.scale, padding=1)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.reparam = self.Conv(16, 20)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.reparam(F.relu(self.first(x)))))
