"""What criteria share that choose inputs of a layer by what they contribute to its output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.base import Kind
from secateur.criteria.moment_based import POSITIONS, MomentCriterion, check_share
from secateur.layerwise import contributions
from secateur.observing.moments import Moments
from secateur.weights import Weight

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["ContributionCriterion"]


class ContributionCriterion(MomentCriterion):
    """Base of criteria that choose inputs of a layer by what its output loses without them.

    A channel's score is that of the weights that read it, added up; each is relative to the energy
    of that layer's output.

    Parameters
    ----------
    ridge : float, default 0.01
        In the update, how strongly weights are held where they are, as a share of the mean energy
        of an input.
    update, sequential : bool, default True
    positions : int or None, default 100
    max_batches : int or None, default None
        See `MomentCriterion`.
    """

    pairwise: ClassVar[bool] = True
    comparable: ClassVar[bool] = True
    unjudged: ClassVar[str] = "no convolution or linear layer reads it"

    def __init__(
        self,
        ridge: float = 0.01,
        update: bool = True,
        sequential: bool = True,
        positions: int | None = POSITIONS,
        max_batches: int | None = None,
    ) -> None:
        super().__init__(update, sequential, positions, "consumer", max_batches)
        check_share(self.name, "ridge", ridge)
        self.ridge = ridge

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return kind in ("conv", "linear") and member.role == "consumer" and len(shape) > 1

    def signal(self, weight: Weight, matrix: Tensor, moments: Moments) -> Tensor:
        grams = contributions(moments, matrix, weight.canonical_shape[1])
        # With outputs first, the dimension of inputs is one group's, and all share it.
        return torch.block_diag(*grams) if weight.storage == "inputs first" else grams.sum(0)

    def member_scores(
        self, member: Member, weight: Tensor, grad: Tensor | None, kind: Kind
    ) -> Tensor | None:
        assert grad is not None
        gram = grad.double().cpu().numpy()
        total = gram.sum()
        # Where the layer's output is zero, whatever goes is not missed.
        scores = self.scores(gram / total) if total > 0 else np.zeros(len(gram))
        return torch.from_numpy(scores)

    @abstractmethod
    def scores(self, gram: np.ndarray) -> np.ndarray:
        """Score inputs; lower goes first.

        Parameters
        ----------
        gram : ndarray, shape [n, n]
            What input i contributes to the output times what input j does, summed over data and
            outputs, as a share of the output's energy.
        """
