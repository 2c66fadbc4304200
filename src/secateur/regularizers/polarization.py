"""Polarization: part batch-norm scales into two clusters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.attached.checks import checked
from secateur.inputs import ExampleInputs
from secateur.regularizers.base import REGULARIZERS, Regularizer
from secateur.regularizers.scales import find_scales

__all__ = ["Polarization"]


@REGULARIZERS.register("polarization")
class Polarization(Regularizer):
    r"""Scales to two clusters, λ (t Σ \|γ\| − Σ \|γ − mean γ\|) (Zhuang et al., NeurIPS 2020).

    The first term draws scales to zero, the second one pushes them away from the mean of all
    scales; what is left lies near zero or clearly above, and `threshold` tells the two apart. As in
    the published code, scales are held between zero and a `ceiling` after every step: the second
    term rewards large ones without end.

    Parameters
    ----------
    strength : float, default 1e-4
        λ.
    t : float, default 1.0
        Weight of the first term; more draws more scales to zero. The published code's default.
    ceiling : float or None, default 1.0
        No scale is larger, or negative, after a step; None leaves them as they are.

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> norm = nn.BatchNorm1d(4)
    >>> with torch.no_grad():
    ...     _ = norm.weight.copy_(torch.tensor([0.0, 0.2, 1.0, 1.2]))
    >>> reg = Polarization(strength=1.0, t=1.0).attach(norm)
    >>> round(reg.penalty().item(), 4), round(reg.threshold(), 4)
    (0.4, 0.6)
    """

    name = "polarization"

    def __init__(self, strength: float = 1e-4, t: float = 1.0, ceiling: float | None = 1.0) -> None:
        self.strength = checked(self.name, "strength", strength)
        self.t = checked(self.name, "t", t)
        self.ceiling = None if ceiling is None else checked(self.name, "ceiling", ceiling)

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        self.scales, self.skipped = find_scales(model, ignore)

    def penalty(self) -> Tensor:
        scales = torch.cat([scale.flatten() for scale in self.scales])
        apart = (scales - scales.mean()).abs().sum()
        return self.strength * (self.t * scales.abs().sum() - apart)

    def after_step(self, lr: float | None = None) -> None:
        if self.ceiling is not None:
            with torch.no_grad():
                for scale in self.scales:
                    scale.clamp_(0.0, self.ceiling)
        super().after_step(lr)

    def threshold(self) -> float:
        """The middle of the widest gap between neighbouring absolute scales."""
        scales = torch.cat([scale.detach().abs().flatten() for scale in self.scales]).sort().values
        if len(scales) < 2:
            return 0.0
        at = int(scales.diff().argmax())
        return float((scales[at] + scales[at + 1]) / 2)
