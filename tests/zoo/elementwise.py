"""Element-wise operations, broadcasting, and what has no rule."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


@net(tokens(), "first.weight", "second.weight", "last.weight")
class ActivationsThatShiftZero(nn.Module):
    """cos, exp, sigmoid and softplus of a removed channel are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        self.second = nn.Linear(18, 22)
        self.last = nn.Linear(22, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cos(self.first(x)) + torch.exp(-self.first(x).abs())
        return self.last(F.softplus(self.second(x)) * torch.sigmoid(self.second(x)) + 1.0)


@net(tokens(), "first.weight", "last.weight")
class ManyActivations(nn.Module):
    """One of each, in a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 20)
        self.last = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.mish(F.elu(F.selu(self.first(x))))
        x = F.softsign(F.tanhshrink(F.celu(x))) + F.logsigmoid(x) + F.relu6(x)
        x = F.hardtanh(x) + F.softshrink(x, 0.1) + F.gelu(x, approximate="tanh")
        x = x.clamp(-2, 2).abs().sqrt() + x.square().neg() + torch.erf(x) - x.reciprocal().tanh()
        return self.last(torch.where(x > 0, x, 0.1 * x).lerp(x.sin(), 0.3))


@net(tokens(), "a.weight", "b.weight", "last.weight")
class TwoOperands(nn.Module):
    """maximum, minimum, atan2, division, remainder and comparison of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 20)
        self.b = nn.Linear(10, 20)
        self.last = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y = torch.maximum(a, b) - torch.minimum(a, 0.5 * b) + torch.atan2(a, b)
        y = y / (1 + b.abs()) + (a > b).to(a.dtype) * a
        return self.last(torch.where(a.detach() < 0, y, b))


@net(tokens(5, 10), "scale.weight", "shift.weight", "body.weight", "last.weight")
class FeatureWiseModulation(nn.Module):
    """x * (1 + scale) + shift, broadcast over tokens (FiLM, adaptive layer norm)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(10, 18)
        self.scale = nn.Linear(10, 18)
        self.shift = nn.Linear(10, 18)
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        context = x.mean(1)
        y = self.body(x) * (1 + self.scale(context)[:, None]) + self.shift(context)[:, None]
        return self.last(F.silu(y))


@net(tokens(5, 10), "mod.weight", "body.weight", "last.weight")
class ModulationByChunk(nn.Module):
    """Six chunks of one layer modulate a block (DiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(10, 16)
        self.mod = nn.Linear(10, 48)
        self.mid = nn.Linear(16, 16)
        self.last = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        shift, scale, gate = self.mod(x.mean(1)).unsqueeze(1).chunk(3, -1)
        h = self.body(x)
        return self.last(h + gate * self.mid(h * (1 + scale) + shift))


@net(image(), "first.weight", "second.weight", "last.weight")
class InPlace(nn.Module):
    """add_, mul_, relu_, and clamp_ on views."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.second = nn.Conv2d(18, 18, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x).mul_(0.7))
        y = self.second(x)
        y += x
        y.view(y.shape[0], -1).clamp_(-3, 3)
        return self.last(y.add_(0.1).tanh_())


@net(tokens(), "first.weight", "last.weight")
class CastsAndCopies(nn.Module):
    """float(), to(), clone, detach, contiguous, new tensors like others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 20)
        self.last = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.dtype
        x = self.first(x).to(torch.float64).clone().contiguous()
        x = x + torch.ones_like(x) * 0.1 + torch.full_like(x, 0.2) - x.detach() * 0.5
        return self.last(torch.tanh(x).to(kind).type_as(self.last.weight))


@net(tokens(6, 10), "free.weight")
class SortedFeatures(nn.Module):
    """A sort over features has no rule: it protects them, and the rest is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(10, 24)
        self.first = nn.Linear(24, 12)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.relu(self.free(x)))
        return self.last(torch.sort(x, dim=-1).values)


@net(tokens(6, 10), "free.weight")
class Spectrum(nn.Module):
    """A Fourier transform over features has no rule either."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(10, 24)
        self.first = nn.Linear(24, 12)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.relu(self.free(x)))
        return self.last(torch.fft.fft2(x, dim=(-1, -2)).real)


@net(tokens(6, 10), "free.weight")
class CumulativeOverFeatures(nn.Module):
    """A running product over features."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(10, 24)
        self.first = nn.Linear(24, 12)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.relu(self.free(x)))
        return self.last(torch.cumprod(1 + 0.1 * x.tanh(), dim=-1))


@net(tokens(6, 10), "free.weight")
class DetourThroughNumpy(nn.Module):
    """Values leave PyTorch and come back: what they touched stays."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(10, 24)
        self.first = nn.Linear(24, 12)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.relu(self.free(x)))
        gate = torch.from_numpy(x.detach().cpu().numpy() * 0.5).to(x)
        return self.last(x * gate)


@net(tokens(6, 10), prunable=False)
class OneLayer(nn.Module):
    """Its inputs are the model's inputs and its outputs the model's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


@net(image(), prunable=False)
class DepthwiseOnly(nn.Module):
    """Every channel is the input's and the output's."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.bn = nn.BatchNorm2d(3)
        self.b = nn.Conv2d(3, 3, 3, padding=1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.bn(self.a(x))))
