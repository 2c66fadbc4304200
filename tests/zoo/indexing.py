"""Reordering, repeating, padding and picking by constant indices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


class Reordered(nn.Module):
    """Two convs with something between them that subclasses say."""

    def __init__(self, channels: int = 18, after: int | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(after or channels)
        self.last = nn.Conv2d(after or channels, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.bn(self.between(self.first(x)))))

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError


BOTH = ("first.weight", "bn.weight", "last.weight")


@net(image(), *BOTH)
class Flip(Reordered):
    """Channels in reverse."""

    def between(self, x: Tensor) -> Tensor:
        return torch.flip(x, dims=[1])


@net(image(), *BOTH)
class FlipAndAdd(Reordered):
    """A channel is tied to its mirror image."""

    def between(self, x: Tensor) -> Tensor:
        return x + x.flip(1)


@net(image(), *BOTH)
class FlipSpace(Reordered):
    """Space in reverse: channels are not touched."""

    def between(self, x: Tensor) -> Tensor:
        return x.flip(-1).flip((2, 3)).rot90(2, (2, 3))


@net(image(), "first.weight", "last.weight")
class Roll(Reordered):
    """Channels rolled by a constant: each removal must keep the seam where it was."""

    def between(self, x: Tensor) -> Tensor:
        return torch.roll(x, shifts=5, dims=1)


@net(image(), "first.weight", "last.weight")
class TemporalShift(nn.Module):
    """Groups of channels shifted in space by slices of a quarter (S2-MLP)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.last = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        left, right, up, stay = x.chunk(4, 1)
        x = torch.cat([left.roll(1, 3), right.roll(-1, 3), up.roll(1, 2), stay], 1)
        return self.last(F.relu(x))


@net(image(), "first.weight", "bn.weight", "last.weight")
class IndexSelectPermutation(Reordered):
    """A permutation in a buffer, whose numbers must be renumbered."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("order", torch.randperm(18, generator=generator))

    def between(self, x: Tensor) -> Tensor:
        return torch.index_select(x, 1, self.order)


@net(image(), "first.weight", "last.weight")
class IndexByBuffer(Reordered):
    """x[:, order] with a channel taken twice and others never."""

    def __init__(self) -> None:
        super().__init__(18, 14)
        generator = torch.Generator().manual_seed(4)
        self.register_buffer("order", torch.randint(0, 18, (14,), generator=generator))

    def between(self, x: Tensor) -> Tensor:
        return x[:, self.order]


@net(image(), "stem.weight")
class IndexByList(Reordered):
    """The order is a Python list: what it names stays, the stem goes."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem = nn.Conv2d(3, 20, 3, padding=1)
        self.first = nn.Conv2d(20, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(self.stem(x)))

    def between(self, x: Tensor) -> Tensor:
        return x[:, [3, 1, 4, 0, 5, 2, 7, 6]]


@net(image(), "first.weight", "last.weight")
class RepeatChannels(Reordered):
    """x.repeat: a channel owns one column in every copy."""

    def __init__(self) -> None:
        super().__init__(12, 36)

    def between(self, x: Tensor) -> Tensor:
        return x.repeat(1, 3, 1, 1)


@net(image(), "first.weight", "last.weight")
class RepeatInterleave(Reordered):
    """A channel owns adjacent columns."""

    def __init__(self) -> None:
        super().__init__(12, 24)

    def between(self, x: Tensor) -> Tensor:
        return torch.repeat_interleave(x, 2, dim=1)


@net(image(), "first.weight", "last.weight")
class TileAndExpand(Reordered):
    """expand over a new axis, flattened into the channels."""

    def __init__(self) -> None:
        super().__init__(10, 30)

    def between(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.unsqueeze(2).expand(b, c, 3, h, w).reshape(b, c * 3, h, w)


@net(image(), "inner.weight", "wide.weight", "last.weight")
class ChannelPadding(nn.Module):
    """ResNet's option A: strided space, channels padded with zeros on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.inner = nn.Conv2d(12, 20, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(20, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.wide(F.relu(self.inner(x)))
        return self.last(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3))))


@net(image(), "first.weight", "inner.weight", "last.weight")
class PadByCat(nn.Module):
    """Channels padded by a concatenation with zeros made from sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.inner = nn.Conv2d(12, 20, 3, padding=1)
        self.wide = nn.Conv2d(20, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.wide(F.relu(self.inner(x)))
        missing = y.shape[1] - x.shape[1]
        zeros = x.new_zeros(x.shape[0], missing, *x.shape[2:])
        return self.last(F.relu(y + torch.cat([x, zeros], 1)))


@net(image(), "first.weight", "last.weight")
class PadSpace(Reordered):
    """Constant, reflection and replication padding of space."""

    def between(self, x: Tensor) -> Tensor:
        x = F.pad(F.pad(x, (1, 0, 0, 2)), (1, 1, 1, 1), mode="reflect")
        return F.pad(x, (2, 0, 1, 0), mode="replicate")


@net(tokens(6, 10), "up.weight", "down.weight")
class GatherTokens(nn.Module):
    """gather along the sequence with constant indices, expanded over features."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.register_buffer("order", torch.tensor([4, 0, 2, 2]))
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(x))
        index = self.order.view(1, -1, 1).expand(x.shape[0], -1, x.shape[-1])
        return self.down(torch.gather(x, 1, index))


@net(tokens(6, 10), "up.weight", "down.weight")
class ScatterTokens(nn.Module):
    """index_add and scatter_add along the sequence with constant indices."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.register_buffer("segment", torch.tensor([0, 2, 1, 1, 0, 2]))
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(x))
        zeros = x.new_zeros(x.shape[0], 3, x.shape[-1])
        index = self.segment.view(1, -1, 1).expand_as(x)
        pooled = zeros.scatter_add(1, index, x) + zeros.index_add(1, self.segment, x)
        return self.down(pooled)


@net(tokens(6, 10), "free.weight", "down.weight")
class GatherFeatures(nn.Module):
    """gather along features with constant indices: they are renumbered, or what they name stays."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(10, 24)
        self.up = nn.Linear(24, 12)
        self.register_buffer("order", torch.tensor([5, 3, 3, 11, 0, 7, 8, 2]))
        self.mid = nn.Linear(8, 18)
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.relu(self.free(x)))
        index = self.order.expand(*x.shape[:2], -1)
        return self.down(F.relu(self.mid(torch.gather(x, -1, index))))


@net(tokens(6, 10), "up.weight", "down.weight")
class TokensByNumber(nn.Module):
    """Advanced indexing, slicing and reversing of the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(x))
        x = x[:, [0, 3, 5]] + x[:, 1::2].flip(1)
        return self.down(x[torch.arange(x.shape[0]), torch.tensor([1, 2])])


@net(tokens(6, 10), "up.weight", "down.weight")
class AssignSlices(nn.Module):
    """Assignment into a tensor of zeros, whole and by slices of the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(10, 18)
        self.down = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        y = torch.zeros_like(x)
        y[:, 1:] = x[:, :-1]
        return self.down(torch.tanh(y + x))


@net(image(), "hidden.weight", "last.weight")
class ShiftChannelsInPlace(nn.Module):
    """The first quarter of the channels shifted by assignment (TSM)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.hidden = nn.Conv2d(16, 20, 1)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        fold = x.shape[1] // 4
        y = torch.zeros_like(x)
        y[:, :fold, :, 1:] = x[:, :fold, :, :-1]
        y[:, fold:] = x[:, fold:]
        return self.last(F.relu(self.hidden(y)))
