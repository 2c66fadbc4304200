"""APoZ: a channel that is nearly always zero can go."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from secateur.criteria.activation_based import ActivationCriterion
from secateur.criteria.base import CRITERIA
from secateur.errors import InputError

__all__ = ["APoZ"]


@CRITERIA.register("apoz")
class APoZ(ActivationCriterion):
    r"""Share of a channel's activations that are not zero, 1 − APoZ.

    Hu et al. 2016 (arXiv:1607.03250, network trimming). APoZ is the average percentage of zeros
    after the ReLU, counted over samples and places; a channel with a *high* one goes first, so
    the score is 1 − APoZ. The paper removes what lies a standard deviation above the layer's
    mean, retrains and repeats; here the budget decides. Activations that are never exactly zero
    (GELU, SiLU) need an `epsilon`.

    Measured behind the first activation that follows the layer, in eval mode; see
    `ActivationCriterion`.

    Parameters
    ----------
    epsilon : float, default 0.0
        Up to this absolute value an activation counts as zero.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> import torch
    >>> sums, count = APoZ().measure(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]))
    >>> sums / count
    tensor([0.5000, 0.0000])
    """

    name = "apoz"
    comparable: ClassVar[bool] = True

    def __init__(self, epsilon: float = 0.0, max_batches: int | None = None) -> None:
        super().__init__(max_batches)
        if not epsilon >= 0:
            raise InputError(f"criterion 'apoz': epsilon must be at least 0, not {epsilon}")
        self.epsilon = epsilon

    def measure(self, values: Tensor) -> tuple[Tensor, int] | None:
        count = values.numel() // values.shape[1]
        # A NaN must not pass for an activation that is not zero.
        alive = (values.abs() > self.epsilon).to(values.dtype) + values * 0
        return alive.transpose(0, 1).flatten(1).sum(dim=1), count
