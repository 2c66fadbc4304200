"""The small net that methods in a training loop are tested on, and its batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from secateur.schedules import dynamic_sparsity

X = torch.randn(6, 4, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3


def net(seed: int = 0, *, norms: bool = True) -> nn.Sequential:
    """A convolution without bias, a grouped one, a linear layer; a batch norm behind the first two.

    Without norms the places in between stay, so that layers keep their names.
    """
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8) if norms else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, groups=2),
        nn.BatchNorm2d(6) if norms else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def engine(model: nn.Module, kind: str = "sgd") -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.AdamW(model.parameters(), lr=0.01)
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def train(model: nn.Module, method: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        method.add_gradients()
        optimizer.step()
        method.step()


def attached(line: str, model: nn.Module, kind: str = "sgd") -> tuple[Any, Any]:
    method = dynamic_sparsity(line, model)
    # Made afterwards, so that scores are among the parameters.
    method.optimizer = engine(model, kind)
    return method, method.optimizer
