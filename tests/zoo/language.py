"""Small whole networks for text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Mlp, RMSNorm
from .registry import ids, net


class CausalAttention(nn.Module):
    """nanoGPT's: one fused projection, split by n_embd."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.n_head, self.n_embd = heads, width
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class GptBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = CausalAttention(width, heads), Mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


@net(ids(), "h.0.mlp.fc1.weight", "h.1.mlp.fc2.weight")
class Gpt(nn.Module):
    """Tied embeddings, learnt positions."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 24)
        self.wpe = nn.Embedding(8, 24)
        self.h = nn.ModuleList(GptBlock(24, 3) for _ in range(2))
        self.ln_f = nn.LayerNorm(24)
        self.lm_head = nn.Linear(24, 11, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor) -> Tensor:
        positions = torch.arange(idx.shape[1], dtype=torch.long, device=idx.device)
        x = self.wte(idx) + self.wpe(positions)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def rotate_half(x: Tensor) -> Tensor:
    """Rotate the halves of the last dimension."""
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class Rotary(nn.Module):
    """Cosines and sines of the positions, from inverse frequencies in a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 100 ** (torch.arange(0, width, 2).float() / width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
        freqs = positions[:, None] * self.inv_freq[None]
        emb = torch.cat((freqs, freqs), dim=-1)
        return emb.cos(), emb.sin()


class GroupedQueryAttention(nn.Module):
    """Llama's: rotary positions, two key and value heads for four query heads."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.num_key_value_groups = heads // kv_heads
        self.scaling = head_dim**-0.5
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        cos, sin = rotary
        q = self.q_proj(x).view(shape).transpose(1, 2)
        k = self.k_proj(x).view(shape).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k = torch.repeat_interleave(k, self.num_key_value_groups, dim=1)
        v = torch.repeat_interleave(v, self.num_key_value_groups, dim=1)
        weights = torch.matmul(q, k.transpose(2, 3)) * self.scaling
        n = x.shape[1]
        mask = torch.full((n, n), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)
        weights = F.softmax(weights + mask, dim=-1)
        y = torch.matmul(weights, v).transpose(1, 2).contiguous()
        return self.o_proj(y.reshape(*x.shape[:-1], -1))


class LlamaLayer(nn.Module):
    """Pre-norm attention and a gated MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(width), RMSNorm(width)
        self.self_attn = GroupedQueryAttention(width, 4, 2, 8)
        self.gate_proj = nn.Linear(width, 36, bias=False)
        self.up_proj = nn.Linear(width, 36, bias=False)
        self.down_proj = nn.Linear(36, width, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary)
        h = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


@net(
    lambda: {"input_ids": ids()()},
    "embed_tokens.weight",
    "layers.0.gate_proj.weight",
    "layers.1.down_proj.weight",
    "layers.0.self_attn.v_proj.weight",
    "norm.weight",
    "lm_head.weight",
)
class Llama(nn.Module):
    """Grouped queries, rotary positions, RMS norms, gated MLPs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 20)
        self.rotary = Rotary(8)
        self.layers = nn.ModuleList(LlamaLayer(20) for _ in range(2))
        self.norm = RMSNorm(20)
        self.lm_head = nn.Linear(20, 11, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed_tokens(input_ids)
        rotary = self.rotary(x)
        for layer in self.layers:
            x = layer(x, rotary)
        return self.lm_head(self.norm(x))


@net(ids(6), "embed.weight", "convs.0.weight", "fc.weight")
class TextCnn(nn.Module):
    """Convs of several widths over embeddings, the largest over time, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 14)
        self.convs = nn.ModuleList(nn.Conv1d(14, 10 + k, k) for k in (2, 3, 4))
        self.fc = nn.Linear(39, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).transpose(1, 2)
        return self.fc(torch.cat([F.relu(conv(x)).max(dim=2)[0] for conv in self.convs], 1))


class RelativeBias(nn.Module):
    """T5's buckets of relative positions: an embedding whose width is the heads."""

    def __init__(self, buckets: int, heads: int) -> None:
        super().__init__()
        self.bias = nn.Embedding(buckets, heads)

    def forward(self, n: int) -> Tensor:
        positions = torch.arange(n)
        offset = (positions[None] - positions[:, None]).abs().clamp(max=3)
        return self.bias(offset).permute(2, 0, 1).unsqueeze(0)


@net(ids(), "shared.weight", "q.weight", "o.weight", "wi.weight", "wo.weight")
class T5Block(nn.Module):
    """Attention wider than the model, without a scale, a bias of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.key_value_proj_dim = 3, 10
        self.inner_dim = self.n_heads * self.key_value_proj_dim
        self.shared = nn.Embedding(11, 16)
        self.q = nn.Linear(16, self.inner_dim, bias=False)
        self.k = nn.Linear(16, self.inner_dim, bias=False)
        self.v = nn.Linear(16, self.inner_dim, bias=False)
        self.o = nn.Linear(self.inner_dim, 16, bias=False)
        self.relative = RelativeBias(4, self.n_heads)
        self.norm1, self.norm2 = RMSNorm(16), RMSNorm(16)
        self.wi = nn.Linear(16, 30, bias=False)
        self.wo = nn.Linear(30, 16, bias=False)
        self.last = nn.Linear(16, 7)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.n_heads, self.key_value_proj_dim).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)
        h = self.norm1(x)
        q, k, v = self.split(self.q(h)), self.split(self.k(h)), self.split(self.v(h))
        scores = torch.matmul(q, k.transpose(3, 2)) + self.relative(x.shape[1])
        y = torch.matmul(F.softmax(scores.float(), -1).type_as(scores), v)
        x = x + self.o(y.transpose(1, 2).contiguous().view(x.shape[0], -1, self.inner_dim))
        return self.last(x + self.wo(F.relu(self.wi(self.norm2(x)))))
