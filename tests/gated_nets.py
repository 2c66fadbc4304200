"""Small models of every kind that gates go on, with norms that have seen something."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.models.resnet import SmallResNet


class Attention(nn.Module):
    """Heads from one projection, counted by an attribute as timm does."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return self.proj(mixed.reshape(batch, length, self.num_heads * self.head_dim))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        wide = 2 * width
        self.mlp = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Patches of an 8 x 8 image, a class token, and blocks."""

    def __init__(self, width: int = 24, heads: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.first.expand(len(x), -1, -1), x], 1))
        return self.head(self.norm(x)[:, 0])


class Inverted(nn.Module):
    """An inverted residual: widened, convolved channel by channel, narrowed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.layers = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.ReLU6(), nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Squeezed(nn.Module):
    """Squeeze and excitation between two convolutions, and a join of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, padding=1)
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 5, 3, padding=1)
        self.mix, self.out = nn.Conv2d(11, 4, 3, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.wide(x))
        scale = self.up(functional.relu(self.down(x.mean((2, 3))))).sigmoid()
        x = x * scale[:, :, None, None]
        x = torch.cat([self.left(x), functional.relu(self.right(x))], 1)
        x = functional.relu(self.mix(functional.relu(x)))
        return self.out(functional.adaptive_avg_pool2d(x, 4).flatten(1))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 3),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), Inverted(6), Inverted(6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "residual": lambda: SmallResNet(widths=(8, 12), blocks=2, classes=3, channels=3),
    "depthwise": depthwise,
    "transformer": Transformer,
    "squeezed": Squeezed,
}


def net(name: str, seed: int = 0) -> nn.Module:
    """One of them, in eval mode, with statistics and scales that are no identity."""
    torch.manual_seed(seed)
    model = NETS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.4, 1.6)
            with torch.no_grad():
                module.weight[::5] *= -1
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def images(count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
