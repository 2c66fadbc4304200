"""Random: the baseline that every other criterion has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA, Criterion, Kind

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["Random"]


@CRITERIA.register("random")
class Random(Criterion):
    """A uniform random number for every unit: the baseline to beat.

    Mittal et al. 2018 (arXiv:1801.10447) find that networks recover from it as well as from many
    a ranking. The seed of the call decides; the same seed gives the same scores on every machine.
    No weight is read, so it has no view.
    """

    name = "random"
    parts = True
    reads_weights = False
    unjudged = "no parameters"

    def __init__(self) -> None:
        super().__init__()

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return True

    def member_scores(
        self, member: Member, weight: Tensor, grad: Tensor | None, kind: Kind
    ) -> Tensor | None:
        return weight.new_zeros(weight.shape[0])

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.random(len(sums))
