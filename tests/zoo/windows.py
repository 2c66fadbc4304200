"""Einsum, window partition, shifted windows and patch merging."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import floats, image, net, tokens


@net(tokens(6, 10), "up.weight", "mixing", "down.weight")
class EinsumMixes(nn.Module):
    """A parameter [in, heads, width] by einsum, and back by another."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.mixing = nn.Parameter(torch.randn(18, 3, 8) * 0.2)
        self.back = nn.Parameter(torch.randn(3, 8, 16) * 0.2)
        self.down = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bnc,chd->bhnd", F.relu(self.up(x)), self.mixing)
        return self.down(torch.einsum("bhnd,hde->bne", torch.tanh(y), self.back))


@net(image(), "first.weight", "last.weight")
class GraphConv(nn.Module):
    """einsum over a learnt adjacency of joints (skeleton networks)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3 * 12, 1)
        self.adjacency = nn.Parameter(torch.rand(3, 6, 6) / 6)
        self.bn = nn.BatchNorm2d(12)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, kc, t, v = x.size()
        x = x.view(n, self.adjacency.size(0), kc // self.adjacency.size(0), t, v)
        x = torch.einsum("nkctv,kvw->nctw", x, self.adjacency).contiguous()
        return self.last(F.relu(self.bn(x)))


@net(tokens(6, 10), "a.weight", "last.weight")
class EinsumOuter(nn.Module):
    """An outer product over features, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 8)
        self.b = nn.Linear(10, 12)
        self.last = nn.Linear(96, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.einsum("bni,bnj->bnij", self.a(x), self.b(x).tanh()).flatten(2))


def window_partition(x: Tensor, size: int) -> Tensor:
    """Cut a channels-last map into windows."""
    B, H, W, C = x.shape
    x = x.view(B, H // size, size, W // size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, C)


def window_reverse(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Put windows back into a channels-last map."""
    C = windows.shape[-1]
    x = windows.view(-1, height // size, width // size, size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, C)


@net(image(), "first.weight", "fc.weight", "last.weight")
class WindowPartition(nn.Module):
    """Into windows, through a layer, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.fc = nn.Linear(18, 14)
        self.last = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1)
        _, h, w, _ = x.shape
        x = F.gelu(self.fc(window_partition(x, 2)))
        return self.last(window_reverse(x, 2, h, w))


@net(image(3, 8, 4), "first.weight", "qkv.weight", "proj.weight", "last.weight")
class WindowAttention(nn.Module):
    """Windowed attention with a relative position bias table, shifted by roll."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.window = 3, 4
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.qkv = nn.Linear(18, 3 * 24)
        self.proj = nn.Linear(24, 18)
        self.table = nn.Parameter(torch.zeros(49, self.heads))
        axis = torch.arange(4)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
        relative = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + 3
        self.register_buffer("index", relative[..., 0] * 7 + relative[..., 1])
        self.last = nn.Linear(18, 5)

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        scores = q * k.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias.unsqueeze(0)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1)
        _, h, w, _ = x.shape
        y = torch.roll(x, shifts=(-2, -2), dims=(1, 2))
        y = window_reverse(self.attend(window_partition(y, self.window)), self.window, h, w)
        return self.last(x + torch.roll(y, shifts=(2, 2), dims=(1, 2)))


@net(image(), "first.weight", "norm.weight", "reduction.weight", "last.weight")
class PatchMerging(nn.Module):
    """Four strided slices concatenated over features, a norm, a projection (Swin)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.norm = nn.LayerNorm(40)
        self.reduction = nn.Linear(40, 20, bias=False)
        self.last = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1)
        x = torch.cat([x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)], -1)
        return self.last(F.relu(self.reduction(self.norm(x))))


@net(image(), "first.weight", "reduction.weight", "last.weight")
class PatchMergingByView(nn.Module):
    """The same by view and permute, the neighbours in front of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.reduction = nn.Linear(40, 20, bias=False)
        self.last = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1)
        B, H, W, C = x.shape
        x = x.reshape(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.last(F.relu(self.reduction(x)))


@net(image(), "body.weight", "expand.weight", "last.weight")
class PatchExpanding(nn.Module):
    """A linear layer's outputs become space (Swin-Unet)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, padding=1)
        self.expand = nn.Linear(16, 4 * 9)
        self.last = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(F.relu(self.body(x)).permute(0, 2, 3, 1))
        B, H, W, C = x.shape
        x = x.view(B, H, W, 2, 2, C // 4).permute(0, 1, 3, 2, 4, 5)
        return self.last(torch.tanh(x.reshape(B, H * 2, W * 2, C // 4)))


@net(floats(2, 4, 12), "first.weight", "second.weight", "last.weight")
class UnfoldInTime(nn.Module):
    """Overlapping frames by Tensor.unfold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 10, 3, padding=1)
        self.second = nn.Linear(10, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.first(x).unfold(2, 4, 2)
        return self.last(F.relu(self.second(frames.mean(-1).transpose(1, 2))))
