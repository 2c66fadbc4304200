"""HRank: feature maps of low rank carry little."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.activation_based import ActivationCriterion
from secateur.criteria.base import CRITERIA
from secateur.errors import CriterionError

__all__ = ["HRank"]


@CRITERIA.register("hrank")
class HRank(ActivationCriterion):
    """Mean rank of a channel's feature maps.

    Lin et al. 2020 (arXiv:2002.10179). The map of one sample and channel is a matrix ``[height,
    width]``; the score is the mean over samples of its numerical rank, with PyTorch's default
    tolerance. The paper finds it stable over samples and takes 500 images. Channels without
    two-dimensional maps (linear layers, tokens) cannot be judged: they are kept, and listed with
    that reason. Maps of different layers differ in size, so scores do not compare across layers.

    Measured behind the first activation that follows the layer, in eval mode; see
    `ActivationCriterion`.

    Parameters
    ----------
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> maps = torch.stack([torch.eye(3), torch.ones(3, 3), torch.zeros(3, 3)])[None]
    >>> HRank().measure(maps)
    (tensor([3., 1., 0.]), 1)
    """

    name = "hrank"
    unjudged = "no feature maps, whose rank criterion 'hrank' ranks by"

    def measure(self, values: Tensor) -> tuple[Tensor, int] | None:
        if values.ndim != 4:
            return None
        if not bool(values.isfinite().all()):
            raise CriterionError("criterion 'hrank' met NaN or infinity in the outputs of a layer")
        ranks = torch.linalg.matrix_rank(values)
        return ranks.to(values.dtype).sum(dim=0), len(values)
