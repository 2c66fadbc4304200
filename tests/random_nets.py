"""Random nets: a list of steps, each an operation that models really contain.

A net is its list of steps, ``[("conv", 3, 1), ("chunk_gate", 0, 0), ...]``: what a failing example
prints is all that is needed to build it again. A step that does not fit where it stands, such as
a pixel shuffle of seven channels, is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.layers import LayerNorm2d, LayerScale

Step = tuple[str, int, int]
Shape = tuple[int, int, int]
Grow = Callable[[Shape, int, int], "nn.Module | None"]

STEPS: dict[str, Grow] = {}
WIDTHS = (6, 8, 12, 15, 16, 20, 24, 30)
WIDEST = 48


def step(grow: Grow) -> Grow:
    """Register a step: from (channels, height, width) and two numbers to a module, or None."""
    STEPS[grow.__name__] = grow
    return grow


class Do(nn.Module):
    """A function as a module, with modules of its own."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


@step
def conv(shape: Shape, a: int, b: int) -> nn.Module:
    return nn.Conv2d(shape[0], WIDTHS[a], (3, 1, 5)[b % 3], padding=(1, 0, 2)[b % 3])


@step
def grouped(shape: Shape, a: int, b: int) -> nn.Module | None:
    groups = (2, 3, 4, 5)[b % 4]
    if shape[0] % groups or WIDTHS[a] % groups:
        return None
    return nn.Conv2d(shape[0], WIDTHS[a], 3, padding=1, groups=groups)


@step
def depthwise(shape: Shape, a: int, b: int) -> nn.Module | None:
    multiplier = 1 + a % 2
    if shape[0] * multiplier > WIDEST:
        return None
    return nn.Conv2d(shape[0], shape[0] * multiplier, 3, padding=1, groups=shape[0])


@step
def norm(shape: Shape, a: int, b: int) -> nn.Module | None:
    channels = shape[0]
    groups = (1, 2, 3, 4)[b % 4]
    kinds: list[Callable[[], nn.Module | None]] = [
        lambda: nn.BatchNorm2d(channels),
        lambda: nn.GroupNorm(groups, channels) if channels % groups == 0 else None,
        lambda: nn.InstanceNorm2d(channels, affine=True, track_running_stats=b % 2 == 0),
        lambda: LayerNorm2d(channels),
    ]
    return kinds[a % 4]()


@step
def activation(shape: Shape, a: int, b: int) -> nn.Module:
    kinds = [nn.ReLU(), nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.PReLU(shape[0]), nn.ELU()]
    return kinds[a % 6]


@step
def residual(shape: Shape, a: int, b: int) -> nn.Module:
    inner = WIDTHS[a]
    first = nn.Conv2d(shape[0], inner, 3, padding=1)
    second = nn.Conv2d(inner, shape[0], 1)
    bn = nn.BatchNorm2d(inner) if b % 2 else nn.Identity()
    return Do(lambda x, p, q, n: x + q(F.relu(n(p(x)))), first, second, bn)


@step
def projection(shape: Shape, a: int, b: int) -> nn.Module:
    out = WIDTHS[a]
    first, short = nn.Conv2d(shape[0], out, 3, padding=1), nn.Conv2d(shape[0], out, 1)
    return Do(lambda x, p, q: F.relu(p(x)) + q(x), first, short)


@step
def dense(shape: Shape, a: int, b: int) -> nn.Module | None:
    growth = (3, 5, 8)[a % 3]
    if shape[0] + growth > WIDEST:
        return None
    branch = nn.Conv2d(shape[0], growth, 3, padding=1)
    if b % 2:
        return Do(lambda x, p: torch.cat([x, F.relu(p(x))], 1), branch)
    return Do(lambda x, p: torch.cat([torch.sigmoid(p(x)), x], 1), branch)


@step
def chunk_gate(shape: Shape, a: int, b: int) -> nn.Module | None:
    if shape[0] % 2 or shape[0] < 12:
        return None

    def gate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return first * torch.sigmoid(second)

    return Do((gate, lambda x: F.glu(x, 1), lambda x: torch.max(*x.chunk(2, 1)))[a % 3])


class Split(nn.Module):
    """Unequal parts by sizes in attributes; one part through a conv, everything joined."""

    def __init__(self, channels: int, first: int, order: int) -> None:
        super().__init__()
        self.sizes, self.order = [first, channels - first], order
        self.conv = nn.Conv2d(first, first, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        p, q = torch.split(x, self.sizes, dim=1)
        p = self.conv(p)
        return torch.cat([q, p] if self.order else [p, q], 1)


@step
def split(shape: Shape, a: int, b: int) -> nn.Module | None:
    return Split(shape[0], 3 + a % 3, b % 2) if shape[0] >= 8 else None


@step
def c2f(shape: Shape, a: int, b: int) -> nn.Module | None:
    if shape[0] % 2 or shape[0] * 3 // 2 > WIDEST:
        return None
    half = shape[0] // 2

    def join(x: Tensor, inner: nn.Module) -> Tensor:
        y = list(x.chunk(2, 1))
        y.append(F.silu(inner(y[-1])) + y[-1])
        return torch.cat(y, 1)

    return Do(join, nn.Conv2d(half, half, 3, padding=1))


@step
def every_other(shape: Shape, a: int, b: int) -> nn.Module | None:
    if shape[0] % 2 or shape[0] < 12:
        return None
    if b % 2:
        return Do(lambda x: x[:, ::2] + x[:, 1::2])
    return Do(lambda x: torch.cat([x[:, 1::2], x[:, ::2]], 1))


@step
def squeeze_excite(shape: Shape, a: int, b: int) -> nn.Module:
    down, up = nn.Conv2d(shape[0], WIDTHS[a % 3], 1), nn.Conv2d(WIDTHS[a % 3], shape[0], 1)
    return Do(
        lambda x, p, q: x * torch.sigmoid(q(F.relu(p(x.mean((2, 3), keepdim=True))))), down, up
    )


@step
def spatial_gate(shape: Shape, a: int, b: int) -> nn.Module:
    return Do(lambda x, p: x * torch.sigmoid(p(x)), nn.Conv2d(shape[0], 1, 1))


@step
def pixel_shuffle(shape: Shape, a: int, b: int) -> nn.Module | None:
    fits = shape[0] % 4 == 0 and shape[0] >= 24 and shape[1] <= 8
    return nn.PixelShuffle(2) if fits else None


@step
def pixel_unshuffle(shape: Shape, a: int, b: int) -> nn.Module | None:
    fits = shape[1] % 2 == 0 and shape[2] % 2 == 0 and shape[0] * 4 <= WIDEST
    return nn.PixelUnshuffle(2) if fits else None


@step
def channel_shuffle(shape: Shape, a: int, b: int) -> nn.Module | None:
    groups = (2, 3, 4, 5)[a % 4]
    if shape[0] % groups:
        return None

    def shuffle(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    return nn.ChannelShuffle(groups) if b % 2 else Do(shuffle)


@step
def pool(shape: Shape, a: int, b: int) -> nn.Module | None:
    if shape[1] % 2 or shape[2] % 2:
        return None
    return (nn.MaxPool2d(2), nn.AvgPool2d(2))[a % 2]


@step
def upsample(shape: Shape, a: int, b: int) -> nn.Module | None:
    if shape[1] > 4:
        return None
    if a % 3 == 2:
        return nn.ConvTranspose2d(shape[0], WIDTHS[b], 2, stride=2)
    return nn.Upsample(scale_factor=2, mode=("nearest", "bilinear")[a % 3])


@step
def flip(shape: Shape, a: int, b: int) -> nn.Module:
    return Do((lambda x: x.flip(1), lambda x: x + x.flip(1), lambda x: x.flip(2, 3))[a % 3])


@step
def roll(shape: Shape, a: int, b: int) -> nn.Module:
    return Do(lambda x: x.roll((1, -2), (2, 3)))


@step
def pad_channels(shape: Shape, a: int, b: int) -> nn.Module | None:
    front, back = a % 3, b % 4
    fits = front + back and shape[0] + front + back <= WIDEST
    return Do(lambda x: F.pad(x, (0, 0, 0, 0, front, back))) if fits else None


class Reorder(nn.Module):
    """index_select by a buffer, a permutation or with repetitions."""

    def __init__(self, channels: int, seed: int, repeats: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(channels, generator=generator)
        if repeats:
            order = torch.randint(0, channels, (channels - 1,), generator=generator)
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, 1, self.order)


@step
def reorder(shape: Shape, a: int, b: int) -> nn.Module:
    return Reorder(shape[0], a, b % 3 == 2)


@step
def repeat(shape: Shape, a: int, b: int) -> nn.Module | None:
    if shape[0] * 2 > WIDEST:
        return None
    if a % 2:
        return Do(lambda x: x.repeat(1, 2, 1, 1))
    return Do(lambda x: x.repeat_interleave(2, 1))


class Attention(nn.Module):
    """Self-attention over places, fused, its head count in an attribute."""

    def __init__(self, channels: int, heads: int, width: int, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList(
            [nn.Linear(channels, 3 * heads * width)]
            if fused
            else [nn.Linear(channels, heads * width) for _ in range(3)]
        )
        self.out = nn.Linear(heads * width, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.flatten(2).transpose(1, 2)
        if len(self.qkv) == 1:
            shape = (b, h * w, 3, self.heads, -1)
            q, k, v = self.qkv[0](y).view(shape).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (f(y).view(b, h * w, self.heads, -1).transpose(1, 2) for f in self.qkv)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(y).transpose(1, 2).view(b, c, h, w)


@step
def attention(shape: Shape, a: int, b: int) -> nn.Module:
    return Attention(shape[0], 1 + a % 3, 4 + b % 3, b % 2 == 0)


class Scale(nn.Module):
    """A parameter over channels, multiplied or added."""

    def __init__(self, channels: int, add: bool) -> None:
        super().__init__()
        self.add = add
        self.value = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value if self.add else x * self.value


@step
def scale(shape: Shape, a: int, b: int) -> nn.Module:
    return Scale(shape[0], a % 2 == 1)


@step
def twice(shape: Shape, a: int, b: int) -> nn.Module:
    return Do(lambda x, p: p(F.relu(p(x))), nn.Conv2d(shape[0], shape[0], 3, padding=1))


@step
def mlp(shape: Shape, a: int, b: int) -> nn.Module:
    up, down = nn.Linear(shape[0], WIDTHS[a]), nn.Linear(WIDTHS[a], shape[0])
    parts = (up, down, LayerScale(shape[0]), nn.LayerNorm(shape[0]))

    def forward(x: Tensor, p: nn.Module, q: nn.Module, s: nn.Module, n: nn.Module) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        return x + s(q(F.gelu(p(n(y))))).permute(0, 3, 1, 2)

    return Do(forward, *parts)


HEADS: list[Callable[[Shape], nn.Module]] = [
    lambda s: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(s[0], 5)),
    lambda s: nn.Sequential(nn.Flatten(), nn.Linear(s[0] * s[1] * s[2], 5)),
    lambda s: nn.Conv2d(s[0], 5, 1),
    lambda s: Do(
        lambda x, p, q: q(p(x.flatten(2).transpose(1, 2)).mean(1)),
        nn.LayerNorm(s[0]),
        nn.Linear(s[0], 5),
    ),
]


class RandomNet(nn.Module):
    """A stem, the steps that fit, a conv that can always lose channels, a head."""

    def __init__(self, steps: list[Step], head: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Conv2d(3, 12, 3, padding=1)]
        shape: Shape = (12, 8, 4)
        for name, a, b in steps:
            layer: Any = STEPS[name](shape, a, b)
            if layer is not None:
                layers.append(layer)
                with torch.no_grad():
                    shape = tuple(layer.eval()(torch.zeros(2, *shape)).shape[1:])
        layers += [nn.Conv2d(shape[0], 18, 3, padding=1), nn.ReLU()]
        self.layers = nn.ModuleList(layers)
        self.head = HEADS[head]((18, *shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def nets(longest: int) -> st.SearchStrategy[tuple[list[Step], int]]:
    """Draw the steps and the head of a net."""
    numbers = st.integers(0, len(WIDTHS) - 1)
    steps = st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), numbers, numbers), min_size=1, max_size=longest
    )
    return st.tuples(steps, st.integers(0, len(HEADS) - 1))
