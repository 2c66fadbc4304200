"""The small net that methods in a training loop are tested on, and its batch."""

from __future__ import annotations

import torch
from torch import nn

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
