"""Models that keep something between calls, change their inputs, or choose by data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import floats, image, net, tokens


@net(image(), "conv.weight", "last.weight")
class RemembersFeatures(nn.Module):
    """Keeps its last features in an attribute, for a loss to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)
        self.features: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        self.features = x.detach()
        return self.last(x)


@net(floats(2, 4, 9), "first.weight", "last.weight")
class CountsCalls(nn.Module):
    """A buffer counts calls, in eval mode too: pruning must not be seen to call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.first = nn.Conv1d(4, 16, 3, padding=1)
        self.last = nn.Conv1d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.last(F.relu(self.first(x)))


@net(tokens(5, 10), "up.weight", "down.weight")
class ChangesItsInput(nn.Module):
    """The input is normalised in place."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 24)
        self.down = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).mul_(2.0)
        return self.down(torch.tanh(self.up(x)))


@net(image(), "stem.weight")
class PlainTensorAttribute(nn.Module):
    """A table that is neither parameter nor buffer: it is cut, or what it meets stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, padding=1)
        self.conv = nn.Conv2d(20, 12, 3, padding=1)
        self.table = torch.linspace(0, 1, 12, dtype=torch.float64).view(1, 12, 1, 1)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(F.relu(self.stem(x))) + self.table.to(x.dtype))


@net(tokens(6, 10), "hidden.weight", "last.weight")
class CachedTable(nn.Module):
    """A table made on the first call by counting features: which they are matters, so they stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 18)
        self.cache: dict[tuple[int, int], Tensor] = {}
        self.hidden = nn.Linear(18, 20)
        self.last = nn.Linear(20, 7)

    def table(self, x: Tensor) -> Tensor:
        key = (x.shape[1], x.shape[2])
        if key not in self.cache:
            places = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
            self.cache[key] = torch.cos(places * torch.arange(x.shape[2], dtype=x.dtype) * 0.1)
        return self.cache[key]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(F.relu(self.hidden(x * self.table(x).to(x.dtype))))


@net(tokens(6, 10), "experts.0.0.weight", "experts.2.2.weight")
class RoutedExperts(nn.Module):
    """Every token goes to its best expert: shapes depend on the data (Mixtral)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(10, 3, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 16 + 2 * i), nn.SiLU(), nn.Linear(16 + 2 * i, 10))
            for i in range(3)
        )
        self.last = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).max(-1)
        y = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == index)
            y.index_add_(0, rows, expert(flat[rows]) * weights[rows, None])
        return self.last(y.view_as(x))


@net(tokens(7, 10), "up.weight", "down.weight")
class KeepsBestTokens(nn.Module):
    """The three best tokens by a score: top-k and gather along the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.score = nn.Linear(18, 1)
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.up(x))
        best = self.score(x).squeeze(-1).topk(3, dim=1).indices
        return self.down(torch.gather(x, 1, best.unsqueeze(-1).expand(-1, -1, x.shape[-1])))


@net(tokens(7, 10), "up.weight", "down.weight")
class BooleanSelection(nn.Module):
    """A mask chooses tokens: how many, only the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        chosen = F.relu(self.up(x))[x[..., 0] > -10.0]
        return self.down(chosen)


@net(image(), "first.weight", "last.weight")
class BranchOnData(nn.Module):
    """An if on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.a = nn.Conv2d(18, 14, 3, padding=1)
        self.b = nn.Conv2d(18, 14, 1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        y = self.a(y) if x.mean().item() < 100 else self.b(y)
        return self.last(y)


class Reverse(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


@net(image(), "first.weight", "last.weight")
class CustomGradient(nn.Module):
    """An autograd function of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.mid = nn.Conv2d(18, 14, 3, padding=1)
        self.last = nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = Reverse.apply(F.relu(self.first(x)))
        return self.last(F.relu(self.mid(x)))


@net(image(), "first.weight", "mid.weight", "last.weight")
class ForwardHooks(nn.Module):
    """Hooks scale an output, and gate an input by a mask of another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 3, padding=1)
        self.mid = nn.Conv2d(18, 14, 3, padding=1)
        self.last = nn.Conv2d(14, 5, 1)
        self.first.register_forward_hook(double)
        self.last.register_forward_pre_hook(rectify)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mid(self.first(x)))


def double(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output * 2


def rectify(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (F.relu(args[0]),)
