"""Flatten, view, reshape, unflatten, permute and shuffle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


@net(image(), "conv.weight", "fc.weight")
class FlattenNchw(nn.Module):
    """A channel owns height * width adjacent columns of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.fc = nn.Linear(12 * 8 * 6, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.relu(self.conv(x)), 1))


@net(image(), "conv.weight", "bn.weight", "fc.weight")
class FlattenNhwc(nn.Module):
    """After the permute a channel owns every twelfth column."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12 * 8 * 6, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x))).permute(0, 2, 3, 1)
        return self.fc(x.reshape(x.size(0), -1))


@net(image(), "conv.weight", "fc.weight")
class FlattenModule(nn.Module):
    """nn.Flatten behind pooling, in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 14, 3)
        self.pool = nn.AdaptiveAvgPool2d((2, 3))
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(14 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.conv(x))))


@net(image(), "conv.weight", "fc.weight")
class ViewByShape(nn.Module):
    """x.view(b, -1), the batch read from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 4 * 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = self.conv(x).shape
        return self.fc(F.gelu(self.conv(x)).view(b, c * h * w))


@net(image(), graph=("conv.weight", "fc.weight"), name="view_by_literal")
class ViewByLiteral(nn.Module):
    """The flattened size is a number in the code, and another conv is free to shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 18, 3, padding=1)
        self.conv = nn.Conv2d(18, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 4 * 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(F.relu(self.stem(x))).view(-1, 192))


@net(image(), "conv.weight", "mix.weight")
class ReshapeMixesEvenly(nn.Module):
    """Twelve channels become four rows of three: channels r, 3+r, 6+r, 9+r share columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.mix = nn.Linear(3 * 8 * 6, 10)
        self.fc = nn.Linear(10 * 4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).reshape(x.shape[0], 4, -1)
        return self.fc(F.relu(self.mix(x)).flatten(1))


@net(image(3, 4, 4), "stem.weight", "mix.weight")
class ReshapeMixesUnevenly(nn.Module):
    """A row holds one channel and a half."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, padding=1)
        self.conv = nn.Conv2d(20, 12, 3, padding=1)
        self.mix = nn.Linear(24, 14)
        self.fc = nn.Linear(14 * 8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.relu(self.stem(x))).reshape(x.shape[0], 8, 24)
        return self.fc(F.relu(self.mix(x)).flatten(1))


@net(image(), "embed.weight", "fc.weight")
class TokenFlatten(nn.Module):
    """flatten(2).transpose(1, 2), as patch embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 18, 2, stride=2)
        self.fc = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc(F.gelu(x)).mean(1)


@net(tokens(5, 10), "up.weight", "down.weight")
class TokensToOneVector(nn.Module):
    """All tokens flattened into one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 24)
        self.down = nn.Linear(24 * 5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).flatten(1))


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Mix the channels of the groups, as ShuffleNet does."""
    b, c, h, w = x.size()
    x = x.view(b, groups, c // groups, h, w)
    return x.transpose(1, 2).contiguous().view(b, -1, h, w)


@net(image(), "first.weight", "last.weight")
class ChannelShuffleByHand(nn.Module):
    """view, transpose, view, between two convs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.bn = nn.BatchNorm2d(18)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(shuffle(F.relu(self.bn(self.first(x))), 3))


@net(image(), "first.weight", "grouped.weight", "last.weight")
class ChannelShuffleGrouped(nn.Module):
    """Grouped conv, shuffle, grouped conv."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 24, 1, groups=4)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.last = nn.Conv2d(24, 16, 1, groups=4)
        self.head = nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = shuffle(self.grouped(F.relu(self.first(x))), 4)
        return self.head(self.last(self.depthwise(x)))


@net(image(), "first.weight", "last.weight")
class ChannelShuffleModule(nn.Module):
    """nn.ChannelShuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 20, 3, padding=1)
        self.shuffle = nn.ChannelShuffle(4)
        self.bn = nn.BatchNorm2d(20)
        self.last = nn.Conv2d(20, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bn(self.shuffle(self.first(x))))


@net(tokens(6, 10), "up.weight", "down.weight")
class Unflatten(nn.Module):
    """nn.Unflatten into heads, a product over them, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 24)
        self.unflatten = nn.Unflatten(-1, (4, 6))
        self.down = nn.Linear(24, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.unflatten(self.up(x)))
        return self.down(x.flatten(-2))


@net(tokens(6, 10), "up.weight", "down.weight")
class TensorUnflatten(nn.Module):
    """Tensor.unflatten with an inferred size, and a reduction over the outer part."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 28)
        self.down = nn.Linear(7, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).unflatten(-1, (4, -1)).sum(-2))


@net(tokens(12, 10), "conv.weight", "fc.weight")
class TransposeConv1d(nn.Module):
    """Tokens transposed for a conv over time and back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(10, 22, 3, padding=1)
        self.fc = nn.Linear(22, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))


@net(tokens(5, 10), "fc.weight", "conv.weight", "head.weight")
class LinearToMap(nn.Module):
    """A linear layer's outputs viewed as channels of a map: channels go in whole blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(50, 12 * 4 * 3)
        self.conv = nn.Conv2d(12, 10, 3, padding=1)
        self.head = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x.flatten(1)).view(x.shape[0], -1, 4, 3)
        return self.head(F.relu(self.conv(x)))


@net(image(), "conv.weight", "fc.weight")
class SqueezeUnsqueeze(nn.Module):
    """Axes of length one come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, (8, 6))
        self.fc = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).squeeze(-1).squeeze(-1)
        x = x[:, None].unsqueeze(-1).squeeze(3).squeeze(1)
        return self.fc(x)


@net(image(), "conv.weight", "fc.weight")
class MovedAxes(nn.Module):
    """movedim, swapaxes and .mT in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 14, 3, padding=1)
        self.fc = nn.Linear(14, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.movedim(self.conv(x), 1, 3)
        x = x.swapaxes(1, 3).mT.flatten(2)
        return self.fc(x.transpose(1, 2))


@net(image(), "conv.weight", "fc.weight")
class FoldIntoBatch(nn.Module):
    """Space goes into the batch and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 14, 3, padding=1)
        self.fc = nn.Linear(14, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = self.conv(x).permute(0, 2, 3, 1).reshape(b * h * w, -1)
        return self.fc(F.relu(y)).reshape(b, h, w, -1).permute(0, 3, 1, 2)


@net(image(), "conv.weight", "time.weight", "fc.weight")
class ChannelsAndHeightToTime(nn.Module):
    """Channels and height flattened into features of each column, as in text recognition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.time = nn.Linear(12 * 8, 20)
        self.fc = nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 3, 1, 2).flatten(2)
        return self.fc(F.relu(self.time(x)))
