"""Parameters and buffers used directly, without a module of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LayerScale
from .registry import Removed, ids, image, net, tokens


@net(image(), "first.weight", "weight", "bias", "last.weight")
class FunctionalConv(nn.Module):
    """F.conv2d on a parameter of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 14, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(18, 14, 3, 3) * 0.1)
        self.bias = nn.Parameter(torch.randn(18))
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(F.conv2d(self.first(x), self.weight, self.bias, padding=1)))


@net(tokens(), "first.weight", "weight", "last")
class FunctionalLinear(nn.Module):
    """F.linear and @ on parameters, one of them [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        self.weight = nn.Parameter(torch.randn(18, 22) * 0.2)
        self.offset = nn.Parameter(torch.randn(22))
        self.last = nn.Parameter(torch.randn(7, 22) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.relu(self.first(x)) @ self.weight + self.offset), self.last)


@net(tokens(), "first.weight", "nf.weight", "last.weight")
class Conv1dOfGpt2(nn.Module):
    """Hugging Face's Conv1D: torch.addmm with a transposed weight and self.nf."""

    class Conv1D(nn.Module):
        """A linear layer with the weight [in, out]."""

        def __init__(self, nf: int, nx: int) -> None:
            super().__init__()
            self.nf = nf
            self.weight = nn.Parameter(torch.randn(nx, nf) * 0.2)
            self.bias = nn.Parameter(torch.zeros(nf))

        def forward(self, x: Tensor) -> Tensor:
            size = (*x.size()[:-1], self.nf)
            return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        self.nf = self.Conv1D(24, 18)
        self.last = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.nf(self.first(x))))


@net(image(), "first.weight", "position", "last.weight")
class PositionOverChw(nn.Module):
    """A positional embedding [1, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, 18, 8, 6))
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x) + self.position))


@net(tokens(), "first.weight", "position", "last.weight")
class PositionOverTokens(nn.Module):
    """[1, N, C], sliced to the length."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        self.position = nn.Parameter(torch.zeros(1, 9, 18))
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.position[:, : x.size(1)]))


@net(ids(), "tokens.weight", "positions.weight", "fc.weight", "last.weight")
class PositionByEmbedding(nn.Module):
    """Token and positional embeddings, positions counted in forward or kept in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 18)
        self.positions = nn.Embedding(9, 18)
        self.register_buffer("position_ids", torch.arange(9).expand(1, -1))
        self.fc = nn.Linear(18, 20)
        self.last = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        h = self.tokens(x) + self.positions(self.position_ids[:, :n])
        h = h + self.positions(torch.arange(n, device=x.device))
        return self.last(F.gelu(self.fc(h)))


@net(tokens(), "first.weight", "sinusoid", "last.weight")
class SinusoidBuffer(nn.Module):
    """A fixed table in a buffer, pruned with the width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        angles = torch.arange(9.0)[:, None] / 50 ** (torch.arange(9.0) / 9)
        self.register_buffer("sinusoid", torch.cat([angles.sin(), angles.cos()], 1)[None])
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x) + self.sinusoid[:, : x.shape[1]]))


@net(image(), "patch.weight", "cls_token", "position", "fc.weight")
class ClassToken(nn.Module):
    """Expanded to the batch and put in front."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 18, 2, stride=2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 18))
        self.position = nn.Parameter(torch.zeros(1, 13, 18))
        self.fc = nn.Linear(18, 20)
        self.last = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = x + torch.sigmoid(self.cls_token).repeat(x.shape[0], 1, 1)
        return self.last(F.relu(self.fc(x))[:, 0])


@net(image(), "first.weight", "gamma", "scale.gamma", "last.weight")
class LayerScaled(nn.Module):
    """[C, 1, 1] on a map and [C] on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.gamma = nn.Parameter(1e-4 * torch.ones(18, 1, 1))
        self.mid = nn.Conv2d(18, 18, 1)
        self.scale = LayerScale(18)
        self.last = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.gamma * self.mid(x)
        return self.last(self.scale(x.flatten(2).mT).mean(1))


@net(tokens(), "first.weight", "last.weight")
class AffineAndTemperature(nn.Module):
    """A scalar parameter, a [1, 1, C] one, and a constant list as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        self.temperature = nn.Parameter(torch.tensor(0.5))
        self.shift = nn.Parameter(torch.zeros(1, 1, 18))
        self.register_buffer("mean", torch.linspace(0, 1, 18))
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.first(x) - self.mean) / self.temperature.exp()
        return self.last(torch.addcmul(self.shift, x, x.sigmoid(), value=0.5))


@net(tokens(6, 10), "first.weight", "inner.weight", name="constant_mask")
class ConstantMask(nn.Module):
    """A 0/1 mask over features in a buffer and a where with a bool one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 20)
        self.register_buffer("mask", (torch.arange(20) % 3 != 0).float())
        self.register_buffer("chosen", torch.arange(20) % 4 == 1)
        self.inner = nn.Linear(20, 14)
        self.last = nn.Linear(14, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * self.mask
        return self.last(F.relu(self.inner(torch.where(self.chosen, x.sin(), x))))


@net(tokens(), "a.weight", "b.weight", "bilinear.weight", "last.weight")
class Bilinear(nn.Module):
    """nn.Bilinear: the weight is [out, in1, in2]."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 12)
        self.b = nn.Linear(10, 9)
        self.bilinear = nn.Bilinear(12, 9, 14)
        self.last = nn.Linear(14, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.bilinear(self.a(x), F.relu(self.b(x)))))


@net(ids(), "embedding.weight", "fc.weight", "last.weight")
class Embedding(nn.Module):
    """The width goes, the vocabulary stays; a padding index."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 22, padding_idx=0)
        self.fc = nn.Linear(22, 16)
        self.last = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.fc(self.embedding(x))))


@net(ids(), "bag.weight", "largest.weight", "last.weight")
class EmbeddingBag(nn.Module):
    """Mean and max over a bag of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(11, 18, mode="mean")
        self.largest = nn.EmbeddingBag(11, 18, mode="max")
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.bag(x) + self.largest(x)))


@net(ids(), "embedding.weight", "fc.weight")
class TiedEmbedding(nn.Module):
    """The output layer is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 24)
        self.fc = nn.Linear(24, 24)
        self.head = nn.Linear(24, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(self.embedding(x))))


@net(tokens(), "encode", "hidden.weight")
class TiedTranspose(nn.Module):
    """An autoencoder that decodes by the transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Parameter(torch.randn(20, 10) * 0.2)
        self.hidden = nn.Linear(20, 20)
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.hidden(torch.sigmoid(x @ self.encode.t())))
        return F.linear(h, self.encode.t(), self.bias)


@net(tokens(), "up.0", "up.1", "down.0", "down.1")
class ParameterLists(nn.Module):
    """Low-rank factors in nn.ParameterList, chained by torch.matmul."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ParameterList([torch.randn(10, 12) * 0.3, torch.randn(12, 20) * 0.3])
        self.down = nn.ParameterList([torch.randn(20, 8) * 0.3, torch.randn(8, 7) * 0.3])

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(torch.matmul(torch.matmul(x, self.up[0]), self.up[1]))
        return torch.linalg.multi_dot([x.flatten(0, 1), self.down[0], self.down[1]])


def mask_router(dense: nn.Module, removed: Removed) -> None:
    """Route among the kept experts only."""
    gone = torch.zeros(dense.router.out_features, dtype=dense.router.weight.dtype)
    gone[removed.get("router.weight", {}).get(0, [])] = -torch.inf
    dense.gone = gone


@net(tokens(6, 10), "w1", "w2", "first.weight", masked=mask_router)
class ExpertsByBmm(nn.Module):
    """A stacked parameter [experts, in, out] and a soft router."""

    gone: Tensor | float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 12)
        self.router = nn.Linear(12, 3)
        self.w1 = nn.Parameter(torch.randn(3, 12, 18) * 0.2)
        self.w2 = nn.Parameter(torch.randn(3, 18, 12) * 0.2)
        self.last = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        weights = (self.router(x) + self.gone).softmax(-1)
        flat = x.reshape(1, -1, x.shape[-1]).expand(3, -1, -1)
        y = torch.bmm(F.gelu(torch.bmm(flat, self.w1)), self.w2).view(3, *x.shape)
        return self.last(x + torch.einsum("ebnd,bne->bnd", y, weights))
