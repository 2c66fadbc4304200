"""PyTorch's own attention and transformer layers."""

from __future__ import annotations

from torch import Tensor, nn

from .registry import floats, net, tokens


@net(tokens(6, 10), "attention.out_proj.weight", "attention.in_proj_weight")
class MultiheadAttention(nn.Module):
    """nn.MultiheadAttention: heads narrow with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 24)
        self.attention = nn.MultiheadAttention(24, 3, batch_first=True)
        self.last = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.last(x + y)


@net(lambda: (floats(2, 4, 10)(), floats(2, 6, 9)()), "query.weight")
class MultiheadAttentionCross(nn.Module):
    """Keys and values of other widths, sequence first, weights returned."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(10, 16)
        self.memory = nn.Linear(9, 12)
        self.attention = nn.MultiheadAttention(16, 2, kdim=12, vdim=12)
        self.last = nn.Linear(16, 7)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = self.query(x).transpose(0, 1)
        m = self.memory(memory).transpose(0, 1)
        y, weights = self.attention(q, m, m)
        return self.last(y.transpose(0, 1)) * (1 + weights.sum(-1, keepdim=True))


@net(tokens(6, 10), "layer.linear1.weight", "layer.linear2.weight")
class TransformerEncoderLayer(nn.Module):
    """nn.TransformerEncoderLayer, norm last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 40, dropout=0.1, batch_first=True)
        self.last = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.embed(x)))


@net(tokens(6, 10), "encoder.layers.0.linear1.weight", "encoder.layers.1.linear2.weight")
class TransformerEncoder(nn.Module):
    """nn.TransformerEncoder of two layers, norm first, with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 16)
        layer = nn.TransformerEncoderLayer(
            16, 4, 28, activation="gelu", norm_first=True, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), False)
        self.last = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.last(self.encoder(self.embed(x), mask=mask).mean(1))


@net(
    lambda: {"tgt": floats(2, 4, 10)(), "memory": floats(2, 6, 16)()},
    "layer.linear1.weight",
    "layer.linear2.weight",
)
class TransformerDecoderLayer(nn.Module):
    """nn.TransformerDecoderLayer on keyword inputs; the memory's width is the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 16)
        self.layer = nn.TransformerDecoderLayer(16, 2, 36, batch_first=True)
        self.last = nn.Linear(16, 7)

    def forward(self, tgt: Tensor, memory: Tensor) -> Tensor:
        return self.last(self.layer(self.embed(tgt), memory))
