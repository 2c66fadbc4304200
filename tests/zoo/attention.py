"""Attention by hand: separate and fused, every way to write the heads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import Removed, image, net, tokens

QKV = ("q.weight", "k.weight", "v.weight", "out.weight")


class Separate(nn.Module):
    """q, k, v by three linear layers; subclasses attend."""

    def __init__(self, width: int = 18, inner: int = 24) -> None:
        super().__init__()
        self.q = nn.Linear(width, inner)
        self.k = nn.Linear(width, inner)
        self.v = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)
        self.embed = nn.Linear(10, width)
        self.last = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.last(x + self.attend(x))

    def attend(self, x: Tensor) -> Tensor:
        raise NotImplementedError


@net(tokens(6, 10), "embed.weight", *QKV)
class SingleHead(Separate):
    """One head; the scale is read off the query."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        weights = F.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
        return self.out(weights @ v)


@net(tokens(6, 10), *QKV)
class HeadsInView(Separate):
    """Four heads, known only by a view; the scale is read off the query."""

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, -1).transpose(1, 2)
        k = self.k(x).view(b, n, 4, -1).transpose(1, 2)
        v = self.v(x).view(b, n, 4, -1).transpose(1, 2)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, -1))


@net(tokens(6, 10), *QKV)
class HeadsAttribute(Separate):
    """self.heads, self.head_dim and self.scale are set once, in the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 3, 8
        self.scale = self.head_dim**-0.5

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        shape = (b, n, self.heads, self.head_dim)
        q, k, v = (f(x).view(shape).permute(0, 2, 1, 3) for f in (self.q, self.k, self.v))
        weights = torch.softmax(torch.matmul(q, k.transpose(2, 3)) * self.scale, -1)
        y = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous()
        return self.out(y.view(b, n, self.heads * self.head_dim))


@net(tokens(6, 10), *QKV)
class HeadsScaledDotProduct(Separate):
    """F.scaled_dot_product_attention, whose scale follows the head's width."""

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 2, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


@net(tokens(6, 10), *QKV)
class HeadsWithMask(Separate):
    """A causal mask kept in a buffer, masked_fill, dropout on the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("causal", torch.ones(6, 6, dtype=torch.bool).tril())
        self.drop = nn.Dropout(0.1)

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = q @ k.mT / math.sqrt(k.size(-1))
        scores = scores.masked_fill(~self.causal[:n, :n], float("-inf"))
        return self.out((self.drop(scores.softmax(-1)) @ v).transpose(1, 2).reshape(b, n, -1))


@net(tokens(6, 10), *QKV)
class HeadsByBmm(Separate):
    """Heads folded into the batch, torch.bmm and baddbmm."""

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            f(x).view(b, n, 3, -1).transpose(1, 2).flatten(0, 1) for f in (self.q, self.k, self.v)
        )
        bias = torch.zeros(1, n, n, dtype=x.dtype, device=x.device)
        weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=0.3).softmax(-1)
        y = torch.bmm(weights, v).unflatten(0, (b, 3)).transpose(1, 2)
        return self.out(y.flatten(2))


@net(tokens(6, 10), *QKV)
class HeadsByEinsum(Separate):
    """einsum for both products."""

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 4, -1) for f in (self.q, self.k, self.v))
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).mul(0.4).softmax(-1)
        return self.out(torch.einsum("bhnm,bmhd->bnhd", weights, v).reshape(b, n, -1))


class Fused(nn.Module):
    """A block around a fused qkv; subclasses attend."""

    def __init__(self, width: int = 18, inner: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(10, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner)
        self.proj = nn.Linear(inner, width)
        self.last = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.last(x + self.attend(self.norm(x)))

    def attend(self, x: Tensor) -> Tensor:
        raise NotImplementedError


@net(tokens(6, 10), "qkv.weight", "proj.weight")
class FusedInView(Fused):
    """reshape(b, n, 3, heads, -1), the number of heads only there."""

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.size(-1) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, -1))


@net(tokens(6, 10), "qkv.weight", "proj.weight")
class FusedHeadsOutside(Fused):
    """The heads are the outer axis and q, k, v the inner one."""

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 2, 3, -1).transpose(1, 2).unbind(3)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


@net(tokens(6, 10), "qkv.weight", "proj.weight")
class FusedChunk(Fused):
    """chunk first, heads afterwards, dropout rate from self.training."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 3

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        return self.proj(y.transpose(1, 2).flatten(-2))


@net(tokens(6, 10), "embed.weight", "qkv.weight", "proj.weight")
class FusedWidthFromInput(Fused):
    """C is read off the input: the heads and the residual width shrink together."""

    def __init__(self) -> None:
        super().__init__(24, 24)
        self.num_heads = 4
        self.scale = (24 // 4) ** -0.5

    def attend(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, C))


@net(tokens(6, 10), "q.weight", "kv.weight", "out.weight")
class CrossAttention(nn.Module):
    """Learnt queries attend to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 14) * 0.1)
        self.q = nn.Linear(14, 20)
        self.kv = nn.Linear(10, 40)
        self.out = nn.Linear(20, 14)
        self.last = nn.Linear(14, 7)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        q = self.q(self.queries).expand(b, -1, -1).unflatten(-1, (2, -1)).transpose(1, 2)
        k, v = self.kv(x).view(b, x.shape[1], 2, 2, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.last(self.queries + self.out(y))


@net(tokens(6, 10), "q.weight", "k.weight", "v.weight", "out.weight")
class GroupedQueries(nn.Module):
    """Six query heads share two key and value heads by expand and reshape (Llama's repeat_kv)."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.groups = 6, 3
        self.q = nn.Linear(10, 36, bias=False)
        self.k = nn.Linear(10, 12, bias=False)
        self.v = nn.Linear(10, 12, bias=False)
        self.out = nn.Linear(36, 7)

    def repeat(self, x: Tensor) -> Tensor:
        b, heads, n, width = x.shape
        x = x[:, :, None, :, :].expand(b, heads, self.groups, n, width)
        return x.reshape(b, heads * self.groups, n, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], -1, self.head_dim)
        q = self.q(x).view(shape).transpose(1, 2)
        k, v = (self.repeat(f(x).view(shape).transpose(1, 2)) for f in (self.k, self.v))
        weights = (q @ k.transpose(2, 3) * self.head_dim**-0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(*x.shape[:2], -1))


@net(tokens(6, 10), "q.weight", "kv.weight", "out.weight")
class MultiQuery(nn.Module):
    """All query heads share one key and one value."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(10, 24)
        self.kv = nn.Linear(10, 16)
        self.out = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        k, v = self.kv(x).chunk(2, -1)
        q = self.q(x).view(b, n, 3, k.shape[-1]).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k[:, None], v[:, None], scale=0.35)
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


@net(image(), "theta.weight", "phi.weight", "g.weight", "out.weight", "first.weight")
class NonLocal(nn.Module):
    """The non-local block: three 1x1 convs, bmm over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.theta = nn.Conv2d(18, 8, 1)
        self.phi = nn.Conv2d(18, 8, 1)
        self.g = nn.Conv2d(18, 12, 1)
        self.out = nn.Conv2d(12, 18, 1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, _, h, w = x.shape
        theta = self.theta(x).view(b, -1, h * w).permute(0, 2, 1)
        phi = self.phi(x).view(b, -1, h * w)
        weights = torch.bmm(theta, phi).softmax(dim=-1)
        y = torch.bmm(weights, self.g(x).view(b, -1, h * w).permute(0, 2, 1))
        y = y.permute(0, 2, 1).contiguous().view(b, -1, h, w)
        return self.last(x + self.out(y))


def mask_features(dense: nn.Module, removed: Removed) -> None:
    """Leave removed features out of the product of queries and keys: they are one, not zero."""
    keep = torch.ones(dense.qkv.weight.shape[0], dtype=dense.qkv.weight.dtype)
    keep[removed.get("qkv.weight", {}).get(0, [])] = 0
    dense.keep = keep.view(3, 3, 1, -1)[0]


@net(tokens(6, 10), "qkv.weight", "proj.weight", masked=mask_features)
class LinearAttention(Fused):
    """No softmax: keys and values are contracted over the sequence first."""

    keep: Tensor | float = 1.0

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 3, -1).permute(2, 0, 3, 1, 4)
        q, k = (F.elu(q) + 1) * self.keep, F.elu(k) + 1
        return self.proj((q @ (k.transpose(-2, -1) @ v)).transpose(1, 2).reshape(b, n, -1) / n)


def mask_channels(dense: nn.Module, removed: Removed) -> None:
    """Leave removed channels out of the softmax."""
    gone = torch.zeros(dense.inner.weight.shape[0], dtype=dense.inner.weight.dtype)
    gone[removed.get("inner.weight", {}).get(0, [])] = -torch.inf
    dense.gone = gone


@net(image(), "v.weight", "fc.weight", masked=mask_channels)
class ChannelAttention(nn.Module):
    """Channels attend to channels (XCiT, DaNet): a softmax over channels protects or ties."""

    gone: Tensor | float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Conv2d(3, 20, 3, padding=1)
        self.inner = nn.Conv2d(20, 8, 1)
        self.fc = nn.Conv2d(8, 12, 1)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(F.relu(self.v(x)))
        flat = x.flatten(2)
        weights = (flat @ flat.transpose(1, 2) * 0.05 + self.gone).softmax(-1)
        return self.last(F.relu(self.fc(x + (weights @ flat).view_as(x))))
