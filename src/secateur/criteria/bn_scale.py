"""Batch-norm scale: a channel whose scale was trained towards zero can go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA, Kind
from secateur.criteria.elementwise import ElementwiseCriterion

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["BNScale"]


@CRITERIA.register("bn_scale")
class BNScale(ElementwiseCriterion):
    r"""Absolute batch-norm scale \|γ\| of a channel (network slimming).

    Liu et al. 2017 (arXiv:1708.06519) rank the scales of all layers against one global threshold,
    so the scores are not normalised per group. A channel behind several batch norms, as in a
    residual stage, takes the mean of their scales. A channel without one cannot be judged: it is
    kept, and listed with that reason.
    """

    name = "bn_scale"
    comparable = True
    # A factor belongs to a whole channel.
    parts = False
    unjudged = "no batch norm with a scale, which criterion 'bn_scale' ranks by"

    def __init__(self) -> None:
        super().__init__()

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return kind == "batchnorm" and member.name.rpartition(".")[2] == "weight"

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        return weight.abs_()

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return sums / np.maximum(counts, 1)
