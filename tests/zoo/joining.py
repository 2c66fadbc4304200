"""Concatenation, stacking and sums of branches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


@net(image(), "a.weight", "b.weight", "bn.weight", "last.weight")
class CatChannels(nn.Module):
    """Two branches of different width, a norm over both."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 10, 3, padding=1)
        self.b = nn.Conv2d(3, 14, 1)
        self.bn = nn.BatchNorm2d(24)
        self.last = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.bn(torch.cat([self.a(x), self.b(x)], dim=1))))


@net(image(), "a.weight", "last.weight")
class CatWithInput(nn.Module):
    """The input's own channels ride along and stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.last = nn.Conv2d(19, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat((x, F.relu(self.a(x))), 1))


@net(image(), "a.weight", "b.weight", "last.weight")
class CatTwice(nn.Module):
    """The same tensor twice in one concatenation, nested in another."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(16, 10, 1)
        self.last = nn.Conv2d(8 + 10 + 8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = self.b(torch.cat([a, a.abs()], 1))
        return self.last(torch.cat([a, b, a], -3))


@net(tokens(), "a.weight", "b.weight", "last.weight")
class CatTokens(nn.Module):
    """Along the sequence: the two widths are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 18)
        self.b = nn.Linear(10, 18)
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.a(x), F.relu(self.b(x))], dim=1))


@net(tokens(), "a.weight", "b.weight", "last.weight")
class CatFeatures(nn.Module):
    """Along the last dimension of tokens, counted from the front."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 18)
        self.b = nn.Linear(10, 12)
        self.last = nn.Linear(30, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.a(x), F.relu(self.b(x))], dim=2))


@net(image(), "a.weight", "b.weight", "last.weight")
class CatSpace(nn.Module):
    """Along the width of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 14, 3, padding=1)
        self.b = nn.Conv2d(3, 14, 1)
        self.last = nn.Conv2d(14, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.a(x), self.b(x)], dim=3))


@net(tokens(), "a.weight", "b.weight", "mix.weight", "last.weight")
class CatSequenceThenMix(nn.Module):
    """Along the sequence, and then a layer over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 18)
        self.b = nn.Linear(10, 18)
        self.mix = nn.Linear(10, 12)
        self.out = nn.Linear(12, 3)
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), F.relu(self.b(x))], dim=1).transpose(1, 2)
        return self.last(self.out(F.gelu(self.mix(x))).transpose(1, 2))


@net(image(), "a.weight", "b.weight", "last.weight")
class CatBatch(nn.Module):
    """Along the batch, split again afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 14, 3, padding=1)
        self.b = nn.Conv2d(3, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(F.relu(torch.cat([self.a(x), self.b(x)], dim=0)))
        first, second = y.chunk(2, dim=0)
        return first - second


@net(image(), "a.weight", "b.weight", "last.weight")
class StackAndSum(nn.Module):
    """torch.stack(...).sum(0)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 14, 3, padding=1)
        self.b = nn.Conv2d(3, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.stack([self.a(x), F.relu(self.b(x))]).sum(0))


@net(image(), "a.weight", "b.weight", "last.weight")
class StackOverChannels(nn.Module):
    """Stacked before the channels, then flattened into them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 9, 3, padding=1)
        self.b = nn.Conv2d(3, 9, 1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.stack([self.a(x), self.b(x)], dim=1).flatten(1, 2))


@net(image(), "a.weight", "b.weight", "last.weight")
class StackInterleaved(nn.Module):
    """Stacked behind the channels, so that they interleave."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 9, 3, padding=1)
        self.b = nn.Conv2d(3, 9, 1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.stack([self.a(x), self.b(x)], dim=2).flatten(1, 2))


@net(image(), "a.weight", "branch.0.weight", "last.weight")
class ResidualSum(nn.Module):
    """x + f(x) around an inner conv."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 14, 3, padding=1)
        self.branch = nn.Sequential(
            nn.Conv2d(14, 10, 1), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 14, 3, padding=1)
        )
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.branch(x)
        return self.last(F.relu_(x))


@net(image(), "inner.weight", "back.weight")
class ResidualToInput(nn.Module):
    """The sum is with the model's own input, whose channels stay."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 14, 3, padding=1)
        self.back = nn.Conv2d(14, 3, 3, padding=1)
        self.last = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.back(F.relu(self.inner(x))))


@net(image(), "a.weight", "b.weight", "last.weight")
class SumOfThree(nn.Module):
    """sum() over a Python list, in-place add and a weighted torch.add."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 14, 3, padding=1)
        self.b = nn.Conv2d(3, 14, 1)
        self.c = nn.Conv2d(3, 14, 5, padding=2)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = sum([self.a(x), self.b(x)])
        y += self.c(x)
        return self.last(torch.add(y, self.a(x), alpha=0.5))


@net(image(), "a.weight", "b.weight", "last.weight")
class CatThenSum(nn.Module):
    """A concatenation added to one whole conv ties each half."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(3, 12, 1)
        self.whole = nn.Conv2d(3, 20, 1)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.silu(torch.cat([self.a(x), self.b(x)], 1) + self.whole(x)))


@net(image(), "a.weight", "b.weight", "row.weight", "last.weight")
class OuterSum(nn.Module):
    """Channels against channels: [b, c, 1] + [b, 1, d], then a layer over each axis."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3, padding=1)
        self.b = nn.Conv2d(3, 16, 1)
        self.row = nn.Linear(16, 9)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).mean((2, 3)), self.b(x).mean((2, 3))
        x = torch.tanh(a[:, :, None] + b[:, None, :])
        return self.last(F.relu(self.row(x)).transpose(1, 2))
