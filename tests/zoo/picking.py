"""Unbind, select, narrow and the largest of several."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


@net(tokens(6, 10), "up.weight", "down.weight")
class Unbind(nn.Module):
    """Three parts of a projection by unbind."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 3 * 14)
        self.down = nn.Linear(14, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        p, q, r = self.up(x).reshape(b, n, 3, -1).unbind(2)
        return self.down(torch.tanh(p) * q + r)


@net(tokens(6, 10), "up.weight", "down.weight")
class UnbindSequence(nn.Module):
    """A Python loop over time steps."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.down = nn.Linear(18, 8)

    def forward(self, x: Tensor) -> Tensor:
        state = 0.0
        for step in self.up(x).unbind(1):
            state = torch.tanh(step + state)
        return self.down(state)


@net(tokens(6, 10), "up.weight", "down.weight")
class SelectToken(nn.Module):
    """x[:, 0] and x[:, -1], the class token idiom."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.down = nn.Linear(36, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.up(x))
        return self.down(torch.cat([x[:, 0], x[:, -1]], -1))


@net(image(), "conv.weight", "rest.weight")
class SelectOneChannel(nn.Module):
    """Channel 0 is a gate by its number; only it must keep its place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 17, 3, padding=1)
        self.rest = nn.Conv2d(16, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(F.relu(self.rest(x[:, 1:])) * torch.sigmoid(x[:, 0]).unsqueeze(1))


@net(image(), "conv.weight", "last.weight")
class MaxoutByView(nn.Module):
    """The largest of each pair of adjacent channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 28, 3, padding=1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = (x := self.conv(x)).shape
        return self.last(x.view(b, c // 2, 2, h, w).amax(2))


@net(image(), "conv.weight", "last.weight")
class MaxOfTwoHalves(nn.Module):
    """Max feature map: torch.max of two chunks (LightCNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 28, 3, padding=1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.max(*self.conv(x).chunk(2, 1)))


@net(image(), "conv.weight", "last.weight")
class TensorSplit(nn.Module):
    """torch.tensor_split and narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.tensor_split(self.conv(x), 2, dim=1)
        return self.last(F.relu(a).narrow(2, 1, 5) + b[:, :, 1:6])
