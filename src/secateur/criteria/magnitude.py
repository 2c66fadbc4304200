"""Magnitude: small weights matter least."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from torch import Tensor

from secateur.criteria.base import CRITERIA, View
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.errors import InputError

__all__ = ["L1", "L2", "LP"]


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


@CRITERIA.register("lp")
class LP(ElementwiseCriterion):
    r"""Lp norm of a unit's weights, for any p.

    (Σ \|w\|^p)^(1/p) over all weights in the view, after Li et al. 2017 (arXiv:1608.08710), who
    rank filters by p = 1 and compare p = 2; ``magnitude`` is p = 2 and ``l1`` is p = 1. A
    large p looks at the largest weights of a unit, a small one at how many there are. Below 1 it
    is no norm, but ranks all the same. Where parts of weights become zero, the mean of \|w\|^p
    over a unit ranks, so p does not matter for single weights.

    Parameters
    ----------
    p : float, default 2
        The exponent, positive and finite.
    view : {"group", "producer", "consumer"}, default "group"
        Which weights count; see `Criterion`.

    Examples
    --------
    >>> import torch
    >>> LP(p=3).elements(torch.tensor([-2.0]), None)
    tensor([8.])
    """

    name = "lp"

    def __init__(self, p: float = 2, view: View = "group") -> None:
        super().__init__(view)
        if type(p) not in (int, float) or not 0 < p < math.inf:
            raise InputError(f"criterion 'lp': p must be positive and finite, not {p!r}")
        self.p = p

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        return weight.abs_().pow_(self.p)

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return sums ** (1 / self.p)
