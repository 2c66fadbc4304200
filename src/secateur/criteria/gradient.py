"""Gradient magnitude: what the loss does not pull at can go."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from secateur.criteria.base import CRITERIA, Criterion
from secateur.criteria.gradient_based import GradientCriterion

__all__ = ["Gradient"]


@CRITERIA.register("gradient")
class Gradient(GradientCriterion):
    r"""Mean absolute gradient of a unit's weights.

    Σ mean \|g\| over the unit's weight matrices, with g the gradient of the loss of one batch and
    the mean taken over batches. A baseline of the field (Blalock et al. 2020, arXiv:2003.03033,
    section 7.2, compares it): it asks where the loss is steep, not what removing a weight
    changes, which is what ``snip`` and ``taylor`` do.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which weights count; see `Criterion`.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> import torch
    >>> Gradient().elements(torch.tensor([5.0]), torch.tensor([-2.0]))
    tensor([2.])
    """

    name = "gradient"
    comparable: ClassVar[bool] = False
    looks_at = Criterion.looks_at

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        assert grad is not None
        return grad.abs_()
