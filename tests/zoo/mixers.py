"""Layers over tokens, over features and over both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Mlp
from .registry import image, net, tokens


@net(tokens(6, 10), "mix.fc1.weight", "mix.fc2.weight", "embed.weight")
class TokenMixing(nn.Module):
    """An MLP over tokens: its hidden width is free, the number of tokens is the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 18)
        self.mix = Mlp(6, 20)
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.last(x + self.mix(x.transpose(1, 2)).transpose(1, 2))


@net(image(), "mix.fc1.weight", "mix.fc2.weight", "mlp.fc1.weight", "patch.weight")
class MixerBlock(nn.Module):
    """Token and channel MLPs with layer norms (MLP-Mixer)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 2, stride=2)
        self.norm1 = nn.LayerNorm(16)
        self.mix = Mlp(12, 18)
        self.norm2 = nn.LayerNorm(16)
        self.mlp = Mlp(16, 26)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.mlp(self.norm2(x))
        return self.last(x.mean(dim=1))


@net(tokens(6, 10), "up.weight", "down.weight")
class SpatialGatingUnit(nn.Module):
    """Half of the features gate the other half across tokens (gMLP)."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 36)
        self.norm = nn.LayerNorm(18)
        self.spatial = nn.Conv1d(6, 6, 1)
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.up(x)).chunk(2, dim=-1)
        return self.down(u * self.spatial(self.norm(v)))


@net(tokens(6, 10), "up.weight", "down.weight", "pool.weight")
class PoolThenExpandTokens(nn.Module):
    """Six tokens become fourteen latent ones and then three."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.pool = nn.Linear(6, 14)
        self.expand = nn.Linear(14, 3)
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(x)).permute(0, 2, 1)
        return self.down(self.expand(torch.tanh(self.pool(x))).permute(0, 2, 1))


@net(tokens(8, 10), "first.weight", "depthwise.weight", "last.weight")
class ConvOverTime(nn.Module):
    """Causal depthwise conv with left padding and a gate (Mamba's and Conformer's)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 40)
        self.depthwise = nn.Conv1d(20, 20, 3, groups=20)
        self.last = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.first(x).chunk(2, -1)
        x = self.depthwise(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
        return self.last(F.silu(x) * F.silu(gate))


@net(image(), "stem.weight", "height.weight", "last.weight")
class AxisMixing(nn.Module):
    """Linear layers along height and along channels of a channels-last map (ViP)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.height = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.channel = nn.Linear(16, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        h = self.back(F.gelu(self.height(x.permute(0, 3, 2, 1)))).permute(0, 3, 2, 1)
        return self.last((h + self.channel(x)).mean((1, 2)))
