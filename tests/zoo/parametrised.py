"""Weights computed from other tensors on every forward pass."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .registry import Removed, image, net, tokens


class Between(nn.Module):
    """Three convs, of which the outer two or the inner one are parametrised."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.mid = nn.Conv2d(16, 20, 3, padding=1)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.mid(F.relu(self.first(x)))))


@net(
    image(),
    "mid.parametrizations.weight.original0",
    "mid.parametrizations.weight.original1",
    name="weight_norm",
    consumers_only=True,
)
def weight_norm() -> nn.Module:
    """A magnitude and a direction per output channel."""
    model = Between()
    for name in ("first", "mid", "last"):
        setattr(model, name, parametrizations.weight_norm(getattr(model, name)))
    return model


@net(image(), "mid.weight_g", "mid.weight_v", consumers_only=True)
class WeightNormByHand(nn.Module):
    """The norm over all but the output channels, written out."""

    class Conv(nn.Module):
        """A 3x3 conv with a separate magnitude."""

        def __init__(self, channels: int, out: int) -> None:
            super().__init__()
            self.weight_v = nn.Parameter(torch.randn(out, channels, 3, 3))
            self.weight_g = nn.Parameter(torch.ones(out, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            v = self.weight_v
            weight = self.weight_g * v / v.norm(2, dim=(1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, padding=1)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.mid = self.Conv(16, 20)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.mid(F.relu(self.first(x)))))


def once(model: nn.Module) -> nn.Module:
    """Run once without gradients: only then can a model with weights made by hooks be copied."""
    with torch.no_grad():
        model(image()())
    return model


@net(image(), "mid.weight_g", "mid.weight_v", name="weight_norm_by_hook", consumers_only=True)
def weight_norm_by_hook() -> nn.Module:
    """torch.nn.utils.weight_norm, which speech models still use."""
    model = Between()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.mid = nn.utils.weight_norm(model.mid)
    return once(model)


@net(image(), "mid.weight_orig", "last.weight", name="spectral_norm_by_hook")
def spectral_norm_by_hook() -> nn.Module:
    """torch.nn.utils.spectral_norm, which GANs still use."""
    model = Between()
    model.mid = nn.utils.spectral_norm(model.mid)
    return once(model.eval())


@net(image(), "mid.parametrizations.weight.original", name="spectral_norm")
def spectral_norm() -> nn.Module:
    """The singular vectors are buffers as long as the weight's sides."""
    model = Between()
    model.mid = parametrizations.spectral_norm(model.mid)
    return model


class StandardisedConv2d(nn.Conv2d):
    """Weights minus their mean over their standard deviation, filter by filter."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        std = weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5
        return self._conv_forward(x, (weight - mean) / std, self.bias)


def mask_standardised(dense: nn.Module, removed: Removed) -> None:
    """Take each filter's mean and deviation over the kept input channels."""
    conv = dense.mid
    keep = torch.ones(1, conv.in_channels, 1, 1, dtype=conv.weight.dtype)
    keep[:, removed.get("mid.weight", {}).get(1, [])] = 0
    count = keep.sum() * conv.weight[0, 0].numel()

    def forward(x: Tensor) -> Tensor:
        mean = (conv.weight * keep).sum((1, 2, 3), keepdim=True) / count
        centred = (conv.weight - mean) * keep
        squares = centred.square().sum((1, 2, 3), keepdim=True)
        if isinstance(conv, StandardisedByBatchNorm):
            weight = centred * (squares / count + 1e-6).rsqrt() * conv.gain * 0.3
        else:
            weight = centred / ((squares / (count - 1)).sqrt() + 1e-5)
        return F.conv2d(x, weight, conv.bias, padding=1)

    conv.forward = forward


@net(image(), "mid.weight", "last.weight", masked=mask_standardised)
class WeightStandardisation(nn.Module):
    """Output channels go; input channels are part of every filter's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.mid = StandardisedConv2d(16, 20, 3, padding=1)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.mid(F.relu(self.first(x)))))


class StandardisedByBatchNorm(nn.Conv2d):
    """timm's: F.batch_norm on the reshaped weight, with a gain."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1)
        self.gain = nn.Parameter(torch.full((out, 1, 1, 1), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * 0.3).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@net(image(), "mid.weight", "mid.gain", "last.weight", masked=mask_standardised)
class ScaledStandardisation(nn.Module):
    """Weight standardisation by a batch norm over the filters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.mid = StandardisedByBatchNorm(16, 20)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.mid(F.relu(self.first(x)))))


class Symmetric(nn.Module):
    """The upper triangle mirrored: rows and columns are one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


@net(tokens(), "first.weight", "last.weight")
class SymmetricParametrization(nn.Module):
    """A user's parametrisation, and a linear layer outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 24)
        self.second = nn.Linear(24, 12)
        self.inner = nn.Linear(12, 12)
        nn.utils.parametrize.register_parametrization(self.inner, "weight", Symmetric())
        self.last_hidden = nn.Linear(12, 20)
        self.last = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(F.relu(self.second(F.relu(self.first(x)))))
        return self.last(F.relu(self.last_hidden(x)))


class Lora(nn.Module):
    """A frozen linear layer plus a trainable low-rank product."""

    def __init__(self, width: int, out: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, out)
        self.base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, width) * 0.1)
        self.b = nn.Parameter(torch.zeros(out, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base.weight + 2.0 * self.b @ self.a, self.base.bias)


@net(tokens(), "up.base.weight", "up.b", "down.base.weight", "down.a")
class LowRankAdapter(nn.Module):
    """Adapters merged in forward; the base layers are frozen and pruned like any other."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Lora(10, 26, 4)
        self.down = Lora(26, 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


@net(image(), "first.weight", "second.weight", consumers_only=True)
class FakeQuantised(nn.Module):
    """Weights rounded to a per-channel step in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 18, 3, padding=1)
        self.register_buffer("step", torch.full((18, 1, 1, 1), 0.02))
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.clamp(torch.round(self.second.weight / self.step), -128, 127) * self.step
        x = F.conv2d(F.relu(self.first(x)), weight, self.second.bias, padding=1)
        return self.last(F.relu(x))
