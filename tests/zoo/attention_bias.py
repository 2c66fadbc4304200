"""Fused attention where something else has heads too: a learned bias, a table, shared keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import QKV, Separate
from .registry import net, tokens


class BiasPerHead(Separate):
    """A learned bias a head and pair of places; the number of heads is left to the view."""

    def __init__(self, *batch: int) -> None:
        super().__init__(inner=32)
        self.bias = nn.Parameter(torch.randn(*batch, 4, 6, 6))

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return self.out(y.transpose(1, 2).flatten(2))


# Without a dimension for the batch the bias takes PyTorch to another kernel.
net(tokens(6, 10), "q.bias", "v.bias", "bias", name="bias_per_head")(lambda: BiasPerHead(1))
net(tokens(6, 10), "q.bias", "v.bias", "bias", name="bias_without_batch")(lambda: BiasPerHead())


@net(tokens(6, 10), "q.bias", "v.bias", "edge.bias")
class BiasFromLayer(Separate):
    """Another layer makes the bias, so its outputs are the heads."""

    def __init__(self) -> None:
        super().__init__(inner=32)
        self.edge = nn.Linear(10, 4)
        self.table = nn.Parameter(torch.randn(6, 6, 10))

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        bias = self.edge(self.table.tanh()).permute(2, 0, 1).unsqueeze(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(b, -1, -1, -1))
        return self.out(y.transpose(1, 2).flatten(2))


class RelativeBias(nn.Module):
    """A table of biases, read by a method of its own that the attention calls."""

    def __init__(self, area: int, heads: int) -> None:
        super().__init__()
        self.bias_shape = (area, area, heads)
        self.table = nn.Parameter(torch.randn(2 * area - 1, heads))
        axis = torch.arange(area)
        self.register_buffer("index", axis[:, None] - axis[None, :] + area - 1)

    def get_bias(self) -> Tensor:
        bias = self.table[self.index.view(-1)].view(self.bias_shape)
        return bias.permute(2, 0, 1).unsqueeze(0).contiguous()


@net(tokens(6, 10), *QKV)
class BiasFromTable(Separate):
    """The shape of the bias stands in a part whose forward never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.relative = RelativeBias(6, 3)

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.relative.get_bias())
        return self.out(y.transpose(1, 2).flatten(2))


@net(tokens(6, 10), "embed.weight", "qkv.bias", "proj.weight", "relative.table")
class BiasedHeadsFirst(nn.Module):
    """Query, key and value of a head in one run, of a width that is written down (MaxViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 24)
        self.heads, self.dim_head = 3, 8
        self.qkv = nn.Linear(24, 72)
        self.proj = nn.Linear(24, 24)
        self.relative = RelativeBias(6, 3)
        self.last = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, -1, self.heads, 3 * self.dim_head).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.relative.get_bias())
        return self.last(x + self.proj(y.transpose(1, 2).reshape(b, n, -1)))


@net(tokens(6, 10), "embed.weight", "q.bias", "k.bias", "out.weight")
class QueriesShareKeys(nn.Module):
    """Three queries share a key inside the kernel: they go with it, or all stay."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 18)
        self.q, self.k, self.v = nn.Linear(18, 48), nn.Linear(18, 16), nn.Linear(18, 16)
        self.out, self.last = nn.Linear(48, 18), nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.last(x + self.out(y.transpose(1, 2).flatten(2)))
