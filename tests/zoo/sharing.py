"""Modules and parameters used more than once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


@net(image(), "conv.weight", "bn.weight", "first.weight", "last.weight")
class ConvUsedTwice(nn.Module):
    """Its inputs and outputs are the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.conv = nn.Conv2d(18, 18, 3, padding=1)
        self.bn = nn.BatchNorm2d(18)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2):
            x = F.relu(self.bn(self.conv(x)))
        return self.last(x)


@net(image(), "tower.weight", "p3.weight", "p4.weight")
class SharedHead(nn.Module):
    """One head over two scales, each with a norm of its own (RetinaNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.p3 = nn.Conv2d(3, 14, 3, padding=1)
        self.p4 = nn.Conv2d(14, 14, 3, stride=2, padding=1)
        self.tower = nn.Conv2d(14, 18, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(18) for _ in range(2))
        self.out = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        p3 = self.p3(x)
        maps = [p3, self.p4(F.relu(p3))]
        return [
            self.out(F.relu(norm(self.tower(x)))) for x, norm in zip(maps, self.norms, strict=True)
        ]


@net(tokens(), "layer.fc1.weight", "layer.fc2.weight", "first.weight", "last.weight")
class SharedBlock(nn.Module):
    """One block applied three times, under two names (ALBERT)."""

    class Block(nn.Module):
        """A pre-norm MLP."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(18)
            self.fc1 = nn.Linear(18, 26)
            self.fc2 = nn.Linear(26, 18)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.fc2(F.gelu(self.fc1(self.norm(x))))

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        self.layer = self.Block()
        self.layers = nn.ModuleList([self.layer] * 3)
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


@net(image(), "a.weight", "last.weight")
class TiedWeights(nn.Module):
    """Two convs hold one weight and two biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 18, 3, padding=1)
        self.b = nn.Conv2d(3, 18, 3, padding=2, dilation=2)
        self.b.weight = self.a.weight
        self.last = nn.Conv2d(36, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([F.relu(self.a(x)), torch.tanh(self.b(x))], 1))


@net(image(), "backbone.0.weight", "backbone.2.weight", "head.weight")
class Siamese(nn.Module):
    """One backbone over two halves of a pair, the difference classified."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 18, 3, padding=1)
        )
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.backbone(x).mean((2, 3))
        b = self.backbone(x.flip(-1) * 0.5).amax((2, 3))
        return self.head((a - b).abs())


@net(image(), "conv.weight", "last.weight", "one.weight")
class SharedOverWidths(nn.Module):
    """A conv on two concatenations whose halves are swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(3, 8, 1)
        self.conv = nn.Conv2d(16, 14, 3, padding=1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x), F.relu(self.two(x))
        y = self.conv(torch.cat([a, b], 1)) + self.conv(torch.cat([b, a], 1))
        return self.last(F.relu(y))


@net(image(), "backbone.weight", "a.weight", "b.weight")
class PartlyFrozen(nn.Module):
    """A frozen backbone, a frozen bias, and an unused layer that must stay as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 18, 3, padding=1)
        self.backbone.requires_grad_(False)
        self.a = nn.Conv2d(18, 14, 3, padding=1)
        self.a.bias.requires_grad_(False)
        self.unused = nn.Linear(18, 14)
        self.b = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(F.relu(self.backbone(x)))))
