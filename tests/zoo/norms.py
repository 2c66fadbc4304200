"""Every normalisation, over pruned and over other dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import masking
from .layers import LayerNorm2d, RMSNorm
from .registry import Removed, floats, image, net, tokens


class Normed(nn.Module):
    """A norm between two convs."""

    def __init__(self, norm: nn.Module, channels: int = 18) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = norm
        self.last = nn.Conv2d(channels, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.first(x))))


@net(image(), "first.weight", "norm.running_var", "last.weight", name="batch_norm")
def batch_norm() -> nn.Module:
    """Weights, biases and running statistics."""
    return Normed(nn.BatchNorm2d(18))


@net(image(), "first.weight", "norm.running_mean", name="batch_norm_without_affine")
def batch_norm_without_affine() -> nn.Module:
    """Running statistics only."""
    return Normed(nn.BatchNorm2d(18, affine=False))


@net(image(), "first.weight", "norm.weight", name="batch_norm_without_statistics")
def batch_norm_without_statistics() -> nn.Module:
    """Batch statistics in eval mode too."""
    return Normed(nn.BatchNorm2d(18, track_running_stats=False))


@net(image(), "first.weight", "norm.weight", name="instance_norm")
def instance_norm() -> nn.Module:
    """Affine, no running statistics."""
    return Normed(nn.InstanceNorm2d(18, affine=True))


@net(image(), "first.weight", "last.weight", name="instance_norm_plain")
def instance_norm_plain() -> nn.Module:
    """No parameters at all."""
    return Normed(nn.InstanceNorm2d(18))


@net(image(), "first.weight", "norm.running_mean", name="instance_norm_running")
def instance_norm_running() -> nn.Module:
    """Running statistics, used in eval mode."""
    return Normed(nn.InstanceNorm2d(18, affine=True, track_running_stats=True))


@net(image(), "first.weight", "norm.weight", "last.weight", name="group_norm")
def group_norm() -> nn.Module:
    """Three groups of six: each must keep the same number."""
    return Normed(nn.GroupNorm(3, 18))


@net(image(), "first.weight", "norm.weight", name="group_norm_one_group")
def group_norm_one_group() -> nn.Module:
    """One group: statistics over all channels."""
    return Normed(nn.GroupNorm(1, 18))


@net(image(), "first.weight", "norm.weight", name="group_norm_each")
def group_norm_each() -> nn.Module:
    """A group a channel."""
    return Normed(nn.GroupNorm(16, 16), 16)


@net(image(), "first.weight", "norm.weight", name="layer_norm_2d")
def layer_norm_2d() -> nn.Module:
    """Permute, F.layer_norm over channels, permute (ConvNeXt)."""
    return Normed(LayerNorm2d(18))


class NormedInside(nn.Module):
    """A norm between convs, and a conv before them that is free."""

    def __init__(self, norm: nn.Module, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, padding=1)
        self.first = nn.Conv2d(20, channels, 3, padding=1)
        self.norm = norm
        self.last = nn.Conv2d(channels, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.first(F.relu(self.stem(x))))))


@net(image(), "stem.weight", name="local_response_norm")
def local_response_norm() -> nn.Module:
    """Every channel is divided by its neighbours': those stay, the stem goes."""
    return NormedInside(nn.LocalResponseNorm(3, alpha=0.5), 12)


@net(image(), "stem.weight", "first.weight", "norm.weight", name="layer_norm_chw")
def layer_norm_chw() -> nn.Module:
    """The norm's weight is [channels, height, width]."""
    return NormedInside(nn.LayerNorm([12, 8, 6]), 12)


@net(image(), "first.weight", "last.weight", name="layer_norm_hw")
def layer_norm_hw() -> nn.Module:
    """Over space only: no channel is mixed."""
    return Normed(nn.LayerNorm([8, 6]))


class NormedTokens(nn.Module):
    """A norm between linear layers."""

    def __init__(self, norm: nn.Module, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(10, width)
        self.norm = norm
        self.inner = nn.Linear(width, 14)
        self.last = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.inner(self.norm(self.first(x)))))


@net(tokens(), "first.weight", "norm.weight", "norm.bias", "inner.weight", name="layer_norm")
def layer_norm() -> nn.Module:
    """Over the pruned dimension."""
    return NormedTokens(nn.LayerNorm(22), 22)


@net(tokens(), "first.weight", "norm.weight", name="layer_norm_without_bias")
def layer_norm_without_bias() -> nn.Module:
    """No bias."""
    return NormedTokens(nn.LayerNorm(22, bias=False), 22)


def mask_plain_layer_norm(dense: nn.Module, removed: Removed) -> None:
    """A norm without parameters is not in the plan: its width is what the producer keeps."""
    masking.layer_norm(dense.norm, {0: removed.get("first.weight", {}).get(0, [])})


@net(tokens(), "first.weight", name="layer_norm_plain", masked=mask_plain_layer_norm)
def layer_norm_plain() -> nn.Module:
    """No parameters: only its attribute follows."""
    return NormedTokens(nn.LayerNorm(22, elementwise_affine=False), 22)


@net(tokens(), "first.weight", "norm.weight", "inner.weight", name="rms_norm")
def rms_norm() -> nn.Module:
    """nn.RMSNorm."""
    return NormedTokens(nn.RMSNorm(22, eps=1e-6), 22)


@net(tokens(), "first.weight", "norm.weight", "inner.weight", name="rms_norm_by_hand")
def rms_norm_by_hand() -> nn.Module:
    """pow, mean, rsqrt, mul, as in Llama."""
    return NormedTokens(RMSNorm(22), 22)


@net(tokens(), "first.weight", "norm.weight", "inner.weight", name="batch_norm_1d")
class FoldedTokens(NormedTokens):
    """The sequence folded into the batch around nn.BatchNorm1d."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm1d(22), 22)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@net(floats(2, 4, 15), "first.weight", "norm.weight", "last.weight")
class InstanceNorm1d(nn.Module):
    """1-d, affine."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 16, 3, padding=1)
        self.norm = nn.InstanceNorm1d(16, affine=True)
        self.last = nn.Conv1d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class NormAfterCat(nn.Module):
    """A norm whose groups do not end where the branches do."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, first, 3, padding=1)
        self.b = nn.Conv2d(3, second, 1)
        self.norm = nn.GroupNorm(3, first + second)
        self.last = nn.Conv2d(first + second, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1))))


@net(image(), "a.weight", "b.weight", "norm.weight", "last.weight", name="group_norm_after_cat")
def group_norm_after_cat() -> nn.Module:
    """The middle group has four channels of each branch."""
    return NormAfterCat(12, 12)


@net(image(), "a.weight", "b.weight", "last.weight", name="group_norm_after_uneven_cat")
def group_norm_after_uneven_cat() -> nn.Module:
    """The middle group has two channels of one branch and six of the other."""
    return NormAfterCat(10, 14)


@net(image(), "first.weight", "norm.weight", "grouped.weight", "last.weight")
class GroupNormAndGroupedConv(nn.Module):
    """Two groups for the norm, four for the conv, over the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.norm = nn.GroupNorm(2, 24)
        self.grouped = nn.Conv2d(24, 16, 3, padding=1, groups=4)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.grouped(F.relu(self.norm(self.first(x))))))


@net(tokens(), "first.weight", "norm.weight", "a.weight", "b.weight", "last.weight")
class PreNormBlock(nn.Module):
    """x + mlp(norm(x)), twice, with one width all the way through."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 24)
        self.norm = nn.LayerNorm(24)
        self.a = nn.Linear(24, 32)
        self.b = nn.Linear(32, 24)
        self.final = nn.LayerNorm(24)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.b(F.gelu(self.a(self.norm(x))))
        return self.last(self.final(x).mean(1))


@net(tokens(), "first.weight", "last.weight")
class UnitLength(nn.Module):
    """F.normalize over features: zeros do not change a Euclidean length."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 24)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.normalize(self.first(x), dim=-1))
