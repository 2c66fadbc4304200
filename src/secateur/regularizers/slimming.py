"""Network slimming: press batch-norm scales to zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.inputs import ExampleInputs
from secateur.regularizers.base import REGULARIZERS
from secateur.regularizers.proximal import Proximal, soft_threshold
from secateur.regularizers.scales import find_scales

__all__ = ["Slimming"]


@REGULARIZERS.register("slimming")
class Slimming(Proximal):
    r"""L1 on batch-norm scales, λ Σ \|γ\| (network slimming, arXiv:1708.06519).

    Liu et al. 2017 add λ sign(γ) to the gradient; `proximal` shrinks by soft thresholding
    instead, γ ← sign(γ) max(\|γ\| − ηλ, 0), which reaches exact zeros.

    Parameters
    ----------
    strength : float, default 1e-4
        λ. The paper's code takes 1e-4 for VGG and 1e-5 for ResNet-164 and DenseNet-40.
    proximal : bool, default False
        Then `after_step` needs the learning rate η, and `add_gradients` adds nothing.

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> norm = nn.BatchNorm1d(2)
    >>> with torch.no_grad():
    ...     norm.weight[0] = 0.01
    >>> Slimming(strength=0.1, proximal=True).attach(norm).after_step(lr=0.5)
    >>> norm.weight.tolist()
    [0.0, 0.95]
    """

    name = "slimming"

    def __init__(self, strength: float = 1e-4, proximal: bool = False) -> None:
        super().__init__(strength, proximal)

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        self.scales, self.skipped = find_scales(model, ignore)

    def penalty(self) -> Tensor:
        return self.strength * torch.stack([scale.abs().sum() for scale in self.scales]).sum()

    def shrink(self, step: float) -> None:
        for scale in self.scales:
            scale.copy_(soft_threshold(scale, step))
