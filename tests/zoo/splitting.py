"""Chunk, split, slice and gated linear units."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


@net(image(), "conv.weight", "a.weight", "b.weight")
class Chunk(nn.Module):
    """Two halves go to two convs; both halves must keep the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.a = nn.Conv2d(10, 14, 1)
        self.b = nn.Conv2d(10, 14, 3, padding=1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, dim=1)
        return self.last(self.a(F.relu(a)) + self.b(b))


@net(image(), "conv.weight", "a.weight")
class ChunkHalfDropped(nn.Module):
    """One half is never used, yet it holds the place of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Conv2d(12, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, _ = torch.chunk(self.conv(x), 2, 1)
        return self.last(F.relu(self.a(a)))


@net(image(), "conv.weight", "a.weight", "last.weight")
class ChunkOfThreeReordered(nn.Module):
    """Three chunks concatenated in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        p, q, r = self.conv(x).chunk(3, 1)
        return self.last(torch.cat([r, self.a(p), q], 1))


@net(image(), "cv1.weight", "inner.0.weight", "cv2.weight")
class C2f(nn.Module):
    """Split in two, grow one half, concatenate everything (YOLOv8)."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 8
        self.cv1 = nn.Conv2d(3, 2 * self.c, 1)
        self.inner = nn.ModuleList(nn.Conv2d(self.c, self.c, 3, padding=1) for _ in range(2))
        self.cv2 = nn.Conv2d(4 * self.c, 12, 1)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).split((self.c, self.c), 1))
        for conv in self.inner:
            y.append(F.silu(conv(y[-1])) + y[-1])
        return self.last(F.silu(self.cv2(torch.cat(y, 1))))


@net(tokens(), "up.weight", "down.weight")
class GegluLast(nn.Module):
    """GEGLU over the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 2 * 22)
        self.down = nn.Linear(22, 8)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


@net(tokens(), "up.weight", "down.weight")
class GegluDimTwo(nn.Module):
    """GEGLU over the same dimension, counted from the front."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 2 * 18)
        self.down = nn.Linear(18, 8)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=2)
        return self.down(F.gelu(gate) * value)


@net(tokens(), "up.weight", "down.weight")
class SwigluByHalf(nn.Module):
    """Slices at shape[-1] // 2."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 2 * 20, bias=False)
        self.down = nn.Linear(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        half = x.shape[-1] // 2
        return self.down(F.silu(x[..., :half]) * x[..., half:])


@net(image(), "conv.weight", "last.weight")
class GluFunctional(nn.Module):
    """F.glu over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 28, 3, padding=1)
        self.bn = nn.BatchNorm2d(28)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.glu(self.bn(self.conv(x)), dim=1))


@net(tokens(), "up.weight", "down.weight")
class GluModule(nn.Module):
    """nn.GLU over features."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 36)
        self.glu = nn.GLU()
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.glu(self.up(x)))


@net(image(), "conv.weight", "a.weight", "b.weight")
class SliceContiguous(nn.Module):
    """Channels before and after a boundary kept in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.split = 8
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.a = nn.Conv2d(8, 14, 1)
        self.b = nn.Conv2d(12, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.a(x[:, : self.split]) + self.b(F.relu(x[:, self.split :]))
        return self.last(x)


@net(image(), "conv.weight", "a.weight", "b.weight")
class SliceWithStep(nn.Module):
    """Even channels to one conv, odd channels to another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Conv2d(12, 14, 1)
        self.b = nn.Conv2d(12, 14, 3, padding=1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(F.relu(self.a(x[:, ::2]) - self.b(x[:, 1::2])))


@net(image(), "stem.weight", graph=("conv.weight", "a.weight"))
class SliceByLiteral(nn.Module):
    """Partial convolution: the first quarter by a number in the code (FasterNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 18, 3, padding=1)
        self.conv = nn.Conv2d(18, 16, 1)
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.relu(self.stem(x)))
        return self.last(torch.cat((self.a(x[:, :4]), x[:, 4:]), 1))


@net(image(), "conv.weight", "a.weight", "b.weight", "c.weight")
class SplitUnequal(nn.Module):
    """split with three sizes held in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [6, 12, 8]
        self.conv = nn.Conv2d(3, 26, 3, padding=1)
        self.a = nn.Conv2d(6, 14, 1)
        self.b = nn.Conv2d(12, 14, 3, padding=1)
        self.c = nn.Conv2d(8, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = torch.split(self.conv(x), self.sizes, dim=1)
        return self.last(self.a(a) + self.b(F.relu(b)) + self.c(c))


@net(image(), "conv.weight", "a.weight", "b.weight")
class SplitUnequalTwoDims(nn.Module):
    """Sizes in two attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.keep, self.extra = 16, 6
        self.conv = nn.Conv2d(3, 22, 3, padding=1)
        self.a = nn.Conv2d(16, 14, 1)
        self.b = nn.Conv2d(6, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).split([self.keep, self.extra], dim=1)
        return self.last(self.a(a) * torch.sigmoid(self.b(b)))


@net(image(), "conv.weight", "a.weight")
class SplitEqual(nn.Module):
    """split by a size computed from the shape; the pieces are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        p, q, r = x.split(x.size(1) // 3, 1)
        return self.a(F.relu(p + q) * torch.sigmoid(r))
