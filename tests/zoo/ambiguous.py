"""Sizes that are equal by chance, and code that branches on sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import floats, image, net, tokens


@net(image(3, 8, 8), "conv.weight", "last.weight")
class SideEqualsChannels(nn.Module):
    """self.size is a side of the map, and as large as the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 16
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.interpolate(self.conv(x), size=(self.size, self.size)))


@net(floats(8, 8, 8, 8), "conv.weight", "mid.weight", "last.weight")
class EverythingIsEight(nn.Module):
    """Batch, channels, height and width are all eight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.mid = nn.Linear(8, 8)
        self.last = nn.Linear(8 * 8 * 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.last(F.relu(self.mid(x)).permute(0, 3, 1, 2).flatten(1))


@net(tokens(16, 16), "up.weight", "mix.weight", "down.weight")
class LengthEqualsWidth(nn.Module):
    """Sixteen tokens of sixteen features, a layer over each."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 16)
        self.mix = nn.Linear(16, 16)
        self.back = nn.Linear(16, 16)
        self.down = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.up(x))
        return self.down(self.back(F.relu(self.mix(x.mT))).mT)


@net(tokens(6, 10), "q.weight", "k.weight", "v.weight", "out.weight")
class HeadsEqualWidth(nn.Module):
    """Four heads of width four, both in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 4
        self.q, self.k, self.v = (nn.Linear(10, 16) for _ in range(3))
        self.out = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.heads, self.width)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(y.reshape(*x.shape[:2], self.heads * self.width))


@net(image(), "first.weight", "branch.weight", "last.weight")
class ProjectIfShapesDiffer(nn.Module):
    """A shortcut is projected if its shape is not the branch's: here it never is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 14, 3, padding=1)
        self.branch = nn.Conv2d(14, 14, 3, padding=1)
        self.project = nn.Conv2d(14, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.branch(F.relu(x))
        if x.shape != y.shape:
            x = self.project(x)
        return self.last(F.relu(x + y))


@net(image(), "stem.weight")
class BranchOnWidth(nn.Module):
    """The code does one thing for sixteen channels and another for fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, padding=1)
        self.conv = nn.Conv2d(20, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.relu(self.stem(x)))
        if x.shape[1] >= 16:
            x = torch.tanh(x)
        return self.last(x)


@net(tokens(6, 10), "free.weight")
class ScaleByWidth(nn.Module):
    """Divided by the square root of the width read from the shape, without a product."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(10, 24)
        self.first = nn.Linear(24, 12)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.relu(self.free(x)))
        return self.last(torch.tanh(x) / x.shape[-1] ** 0.5 + 1.0 / x.size(-1))


@dataclass
class Config:
    """Sizes in an object that is no module."""

    width: int = 24
    heads: int = 3


@net(tokens(6, 10), "mlp.weight", "last.weight")
class SizesInConfig(nn.Module):
    """Hugging Face's habit: sizes are read off self.config in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.qkv = nn.Linear(10, 3 * self.config.width)
        self.out = nn.Linear(self.config.width, 12)
        self.mlp = nn.Linear(12, 30)
        self.last = nn.Linear(30, 7)

    def forward(self, x: Tensor) -> Tensor:
        heads, width = self.config.heads, self.config.width
        q, k, v = self.qkv(x).split(width, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, width // heads)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.last(F.gelu(self.mlp(self.out(y))))


@net(tokens(6, 10), "up.weight", "down.weight", "first.weight")
class SizesByProperty(nn.Module):
    """A property computes the split from a layer's own attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 14)
        self.up = nn.Linear(14, 40)
        self.down = nn.Linear(20, 7)

    @property
    def half(self) -> int:
        return self.up.out_features // 2

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(self.first(x)).split(self.half, -1)
        return self.down(a * torch.sigmoid(b))


class Rearrange(nn.Module):
    """A pattern and sizes by keyword, as einops has it."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.sizes: dict[str, Any] = sizes

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        return x.reshape(b, n, self.sizes["heads"], self.sizes["width"]).transpose(1, 2)


@net(tokens(6, 10), "stem.weight", "last.weight")
class SizesInDict(nn.Module):
    """Sizes in a dict of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 20)
        self.up = nn.Linear(20, 18)
        self.split = Rearrange(heads=3, width=6)
        self.down = nn.Linear(18, 12)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.split(self.up(F.relu(self.stem(x))))
        return self.last(F.relu(self.down(torch.tanh(x).transpose(1, 2).flatten(2))))


@net(image(), "stem.weight", "last.weight")
class SizesInClosure(nn.Module):
    """A size is bound in a lambda, out of reach."""

    def __init__(self) -> None:
        super().__init__()
        channels = 12
        self.stem = nn.Conv2d(3, 20, 3, padding=1)
        self.conv = nn.Conv2d(20, channels, 3, padding=1)
        self.flat = lambda x: x.reshape(x.shape[0], channels, -1)
        self.hidden = nn.Linear(48, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat(self.conv(F.relu(self.stem(x))))
        return self.last(F.relu(self.hidden(x)))


@net(tokens(6, 10), "first.weight", "last.weight")
class NormOverShape(nn.Module):
    """F.layer_norm over x.shape[-1:], F.group_norm and F.batch_norm on bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        self.gain = nn.Parameter(torch.ones(18))
        self.register_buffer("mean", torch.zeros(18))
        self.register_buffer("var", torch.ones(18))
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).transpose(1, 2)
        x = F.batch_norm(x, self.mean, self.var, self.gain, None)
        x = F.instance_norm(x)
        return self.last(x.transpose(1, 2))
