"""Reductions over channels, tokens, space, and over everything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masking import kept
from .registry import Removed, image, net, tokens


def mask_keep(dense: nn.Module, removed: Removed) -> None:
    """Let the net reduce over the kept channels only."""
    dense.keep = kept(dense, removed, "first.weight")


@net(image(), "first.weight", "last.weight", "free.weight", masked=mask_keep)
class MaxOverChannels(nn.Module):
    """The largest channel at each place, as one more channel."""

    keep = slice(None)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.free = nn.Conv2d(19, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        largest = x[:, self.keep].amax(1, keepdim=True)
        return self.last(F.relu(self.free(torch.cat([x, largest], 1))))


@net(image(), "first.weight", "last.weight", masked=mask_keep)
class MeanOverChannels(nn.Module):
    """The mean of all channels takes part in the sum."""

    keep = slice(None)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.last(x - x[:, self.keep].mean(dim=1, keepdim=True))


@net(image(), "first.weight", "last.weight")
class SumOverChannels(nn.Module):
    """A sum over channels ends them without a weight, and is neutral to zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x * torch.sigmoid(x.sum(1, keepdim=True)))


@net(image(), "first.weight", "last.weight", masked=mask_keep)
class SoftmaxOverChannels(nn.Module):
    """A distribution over channels, read by a conv."""

    keep = slice(None)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if isinstance(self.keep, slice):
            return self.last(x.softmax(1))
        return self.last(x.exp() / x[:, self.keep].exp().sum(1, keepdim=True))


@net(image(), "first.weight", "second.weight", "fc.weight")
class PooledFeatures(nn.Module):
    """Mean, max and standard deviation over space, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 14, 3, padding=1)
        self.second = nn.Conv2d(14, 16, 3, padding=1)
        self.fc = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.relu(self.first(x)))
        return self.fc(torch.cat([x.mean([2, 3]), x.amax((-2, -1)), x.flatten(2).std(-1)], 1))


@net(tokens(6, 10), "up.weight", "down.weight")
class AttentivePooling(nn.Module):
    """A softmax over tokens weighs them; cumulative sums and maxima along them."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.score = nn.Linear(18, 1)
        self.down = nn.Linear(36, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.up(x))
        pooled = (self.score(x).softmax(1) * x).sum(1)
        running = x.cumsum(1).max(1).values
        return self.down(torch.cat([pooled, running], -1))


@net(image(), "first.weight", "fc.weight")
class GeneralisedMean(nn.Module):
    """GeM pooling: clamp, power by a parameter, mean, root."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.fc = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).clamp(min=1e-3)
        return self.fc(x.pow(self.p).mean((2, 3)).pow(1 / self.p))


@net(image(), "first.weight", "last.weight", "gamma", masked=mask_keep)
class GlobalResponseNorm(nn.Module):
    """ConvNeXt V2's: a channel's length over the mean of all lengths."""

    keep = slice(None)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, 18))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, 18))
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1)
        length = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        response = length / (length[..., self.keep].mean(dim=-1, keepdim=True) + 1e-6)
        x = self.gamma * (x * response) + self.beta + x
        return self.last(x.permute(0, 3, 1, 2))


@net(tokens(5, 10), "a.weight", "b.weight")
class CosineScores(nn.Module):
    """The output is a similarity: two widths end in one product (CLIP)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 22)
        self.b = nn.Linear(10, 22)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x.flip(1))
        a = a / a.norm(dim=-1, keepdim=True)
        b = b / b.norm(dim=-1, keepdim=True)
        return self.scale.exp() * a @ b.transpose(1, 2)


@net(tokens(5, 10), "a.weight", "b.weight")
class FactorisedInteraction(nn.Module):
    """Square of the sum minus sum of the squares (factorisation machines)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 22)
        self.b = nn.Linear(22, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = 0.5 * (x.sum(1).square() - x.square().sum(1))
        x = self.b(x)
        return self.last(x) + (x * x).sum(-1, keepdim=True).sqrt()
