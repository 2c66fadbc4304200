"""Scaling factors: a channel whose factor was trained towards zero can go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA, Kind
from secateur.criteria.elementwise import ElementwiseCriterion

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["Scale"]

NAMES = ("gamma", "scale", "lambda")


@CRITERIA.register("scale")
class Scale(ElementwiseCriterion):
    r"""Absolute scaling factor of a channel, wherever it comes from.

    Huang and Wang 2018 (arXiv:1707.01213) train a factor on every structure, with a penalty that
    drives it to zero; ``bn_scale`` is the case of batch norm. Here every vector of parameters
    that multiplies a channel counts: the weight of any normalisation (batch, layer, group, RMS),
    and parameters of other modules named after a scale (``gamma``, ``scale`` or ``lambda`` in
    the name), such as LayerScale or a factor of one's own. A channel with several takes the mean
    of their absolute values. A channel without one cannot be judged: it is kept, and listed with
    that reason.

    Without a norm behind it, a factor can shrink while the weights before it grow: train with
    weight decay.

    Examples
    --------
    >>> import torch
    >>> Scale().elements(torch.tensor([-0.5]), None)
    tensor([0.5000])
    """

    name = "scale"
    comparable = True
    # A factor belongs to a whole channel.
    parts = False
    unjudged = "no scaling factor, which criterion 'scale' ranks by"

    def __init__(self) -> None:
        super().__init__()

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        # A factor of every channel may come as [channels] or as [channels, 1, 1].
        if sum(size > 1 for size in shape) > 1 or "running" in member.name:
            return False
        leaf = member.name.rpartition(".")[2].lower()
        if kind in ("batchnorm", "norm"):
            return leaf in ("weight", "scale", "gamma")
        return kind == "other" and any(word in leaf for word in NAMES)

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        return weight.abs_()

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return sums / np.maximum(counts, 1)
