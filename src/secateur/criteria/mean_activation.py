"""Mean activation: a channel that says little can go."""

from __future__ import annotations

from torch import Tensor

from secateur.criteria.activation_based import ActivationCriterion
from secateur.criteria.base import CRITERIA

__all__ = ["MeanActivation"]


@CRITERIA.register("mean_activation")
class MeanActivation(ActivationCriterion):
    r"""Mean absolute activation of a channel.

    The mean of \|a\| over samples and places; one of the criteria that Molchanov et al. 2016
    (arXiv:1611.06440, section 2.2) compare. Scores of different layers are in different units.

    Measured behind the first activation that follows the layer, in eval mode; see
    `ActivationCriterion`.

    Parameters
    ----------
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> import torch
    >>> sums, count = MeanActivation().measure(torch.tensor([[[1.0, -2.0], [0.0, 4.0]]]))
    >>> sums / count
    tensor([1.5000, 2.0000])
    """

    name = "mean_activation"

    def measure(self, values: Tensor) -> tuple[Tensor, int] | None:
        count = values.numel() // values.shape[1]
        return values.abs().transpose(0, 1).flatten(1).sum(dim=1), count
