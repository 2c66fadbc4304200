"""Filter skeletons: learn the shape of every filter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.attached import Target, as_units
from secateur.attached.checks import checked
from secateur.regularizers.base import REGULARIZERS
from secateur.regularizers.computing import Computing

__all__ = ["Stripe"]


class _Skeleton(nn.Module):
    def __init__(self, target: Target) -> None:
        super().__init__()
        self.weight, self.tiling = target.weight, target.tiling
        values = target.value
        self.skeleton = nn.Parameter(
            torch.ones(self.tiling.grid, dtype=values.dtype, device=values.device)
        )

    def forward(self, plain: Tensor) -> Tensor:
        return plain * self.weight.stored(self.tiling.spread(self.skeleton))


@REGULARIZERS.register("stripe")
class Stripe(Computing):
    r"""L1 on filter skeletons, α Σ \|I\|, one entry for each stripe (arXiv:2009.14410).

    Meng et al. 2020: every convolution computes with W ⊙ I, where I of shape [outputs, *kernel]
    starts at one and is trained with the weights. After every step entries with \|I\| below δ
    become zero. `finish` multiplies I into the weights, whose stripes are then exactly zero.

    Parameters
    ----------
    strength : float, default 1e-5
        α; the published code's value.
    threshold : float, default 0.01
        δ; the published code's value, the paper's is 0.05.

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> conv = nn.Conv2d(2, 4, 3)
    >>> reg = Stripe().attach(conv)
    >>> [tuple(skeleton.shape) for skeleton in reg.parameters()]
    [(4, 1, 3, 3)]
    >>> with torch.no_grad():
    ...     reg.parameters()[0][0] = 0.005
    >>> reg.after_step()
    >>> reg.finish()
    >>> int((conv.weight == 0).sum())
    18
    """

    name = "stripe"
    units = as_units("stripe")

    def __init__(self, strength: float = 1e-5, threshold: float = 0.01) -> None:
        self.strength = checked(self.name, "strength", strength)
        self.threshold = checked(self.name, "threshold", threshold)

    def rule(self, target: Target) -> nn.Module:
        return _Skeleton(target)

    def penalty(self) -> Tensor:
        return self.strength * torch.stack([each.abs().sum() for each in self.parameters()]).sum()

    def after_step(self, lr: float | None = None) -> None:
        with torch.no_grad():
            for skeleton in self.parameters():
                low = skeleton.abs() < self.threshold
                skeleton.masked_fill_(low, 0.0)
                if skeleton.grad is not None:
                    skeleton.grad.masked_fill_(low, 0.0)
        super().after_step(lr)
