"""Small whole networks over patches of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import DropPath, LayerNorm2d, LayerScale, Mlp
from .registry import image, net


class Attention(nn.Module):
    """timm's, with C read off the input."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Block(nn.Module):
    """Pre-norm attention and MLP with layer scale and stochastic depth."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim, dim * 2)
        self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


@net(image(), "blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc2.weight")
class VisionTransformer(nn.Module):
    """Patches, class token, positions, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 24, 2, stride=2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 24))
        self.pos_embed = nn.Parameter(torch.zeros(1, 13, 24))
        self.blocks = nn.Sequential(Block(24, 3), Block(24, 3))
        self.norm = nn.LayerNorm(24, eps=1e-6)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, channels-last MLP, layer scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 3 * dim)
        self.pwconv2 = nn.Linear(3 * dim, dim)
        self.gamma = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


@net(
    image(),
    "stem.0.weight",
    "stages.0.0.pwconv1.weight",
    "down.1.weight",
    "stages.1.0.gamma",
    "head.weight",
)
class ConvNext(nn.Module):
    """Two stages with a norm and a strided conv between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 2, stride=2), LayerNorm2d(12))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ConvNextBlock(12), ConvNextBlock(12)),
                nn.Sequential(ConvNextBlock(20)),
            ]
        )
        self.down = nn.Sequential(LayerNorm2d(12), nn.Conv2d(12, 20, 2, stride=2))
        self.norm = nn.LayerNorm(20)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[1](self.down(self.stages[0](self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


@net(image(), "patch.weight", "blocks.0.0.fc1.weight", "blocks.1.1.fc2.weight", "head.weight")
class MlpMixer(nn.Module):
    """Two blocks of token and channel MLPs."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 20, 2, stride=2)
        self.blocks = nn.ModuleList(
            nn.ModuleList([Mlp(12, 16), Mlp(20, 28), nn.LayerNorm(20), nn.LayerNorm(20)])
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(20)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for across, within, norm1, norm2 in self.blocks:
            x = x + across(norm1(x).mT).mT
            x = x + within(norm2(x))
        return self.head(self.norm(x).mean(1))
