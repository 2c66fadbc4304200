"""What tests of `compact` have in common."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

FIXED = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def outputs(model: nn.Module, *inputs: Tensor) -> Tensor:
    mode = model.training
    with torch.no_grad():
        found: Tensor = model.eval()(*inputs)
    model.train(mode)
    return found


def conv2d() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip
