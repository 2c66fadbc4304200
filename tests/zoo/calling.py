"""Inputs and outputs of every kind: tuples, mappings, lists, dataclasses, unused ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import floats, ids, image, net


@net(lambda: (image()(), floats(2, 9)()), "conv.weight", "side.weight", "fc.weight")
class TupleInputs(nn.Module):
    """An image and a vector by position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 14, 3, padding=1)
        self.side = nn.Linear(9, 10)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).mean((2, 3))
        return self.fc(torch.cat([x, self.side(side)], -1))


@net(
    lambda: {"input_ids": ids()(), "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])},
    "embed.weight",
    "fc.weight",
    "last.weight",
)
class DictInputs(nn.Module):
    """Keyword inputs, one of them a mask; a dict comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 18)
        self.fc = nn.Linear(18, 22)
        self.last = nn.Linear(22, 7)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        mask = attention_mask.unsqueeze(-1).to(self.embed.weight.dtype)
        x = torch.tanh(self.fc(self.embed(input_ids))) * mask
        logits = self.last(x.sum(1) / mask.sum(1).clamp(min=1))
        return {"logits": logits}


@dataclass
class Output:
    """What a detector returns."""

    boxes: Tensor
    scores: Tensor
    features: Tensor | None = None


@net(image(), "conv.weight", "boxes.weight", "scores.weight")
class DataclassOutput(nn.Module):
    """Two heads in a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 18, 3, padding=1)
        self.boxes = nn.Conv2d(18, 4, 1)
        self.scores = nn.Conv2d(18, 6, 1)

    def forward(self, x: Tensor) -> Output:
        x = F.relu(self.conv(x))
        return Output(self.boxes(x), self.scores(x))


@net(image(), "hidden.weight", "last.weight")
class FeaturesReturned(nn.Module):
    """An inner map is an output as well: its channels stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.hidden = nn.Conv2d(12, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.relu(self.conv(x))
        return self.last(F.relu(self.hidden(x))), [x]


@net(lambda: ([image()(), image(3, 4, 3)()],), "conv.weight", "last.weight")
class ListInput(nn.Module):
    """A list of maps of several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.last(F.silu(self.conv(x))) for x in maps]


@net(image(), "main.weight", "last.weight")
class OnlyInTraining(nn.Module):
    """An auxiliary head that runs in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.aux = nn.Conv2d(10, 5, 1)
        self.main = nn.Conv2d(10, 18, 3, padding=1)
        self.last = nn.Conv2d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.last(F.relu(self.main(x)))
        return y + self.aux(x) if self.training else y
