"""Magnitude: small weights matter least."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA
from secateur.criteria.elementwise import ElementwiseCriterion

__all__ = ["L1", "L2"]


@CRITERIA.register("magnitude", "l2")
class L2(ElementwiseCriterion):
    """L2 norm of a unit's weights, the default.

    The square root of the sum of squares over all weights in the view. Han et al. 2015
    (arXiv:1506.02626) rank weights by magnitude; this is its form for groups.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which weights count; see `Criterion`.
    """

    name = "magnitude"
    squared: ClassVar[bool] = True

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        return weight.square_()

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.sqrt(sums)


@CRITERIA.register("l1")
class L1(ElementwiseCriterion):
    """L1 norm of a unit's weights.

    The sum of absolute weights. Li et al. 2017 (arXiv:1608.08710) score filters by it, which is
    ``view="producer"``.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which weights count; see `Criterion`.
    """

    name = "l1"

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        return weight.abs_()
