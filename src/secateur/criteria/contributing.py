"""What criteria on a consumer's output share: what its inputs contribute, and the update."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.base import Criterion, Kind
from secateur.criteria.gradient_based import check_count, hand_over
from secateur.criteria.layerwise_based import POSITIONS, check_share
from secateur.layerwise import Refit, Solver, Survivors, contributions
from secateur.observing import Reading, Receive
from secateur.observing.moments import second_moments

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["ContributionCriterion"]


class ContributionCriterion(Criterion):
    """Base of criteria that choose inputs of a layer by what its output loses without them.

    A channel's score is that of the weights that read it, added up; each is relative to the energy
    of that layer's output.

    Parameters
    ----------
    ridge : float, default 0.01
        In the update, how strongly weights are held where they are, as a share of the mean energy
        of an input.
    update : bool, default True
        Fit what survives to what the dense layer computed.
    sequential : bool, default True
        Fit layers in the order in which they run, each on what the pruned layers before it
        produce; reads the data once per layer. False reads it once.
    positions : int or None, default 100
        Output positions of a convolution that count, of every sample, drawn at random; None takes
        all of them.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.
    """

    needs_data: ClassVar[bool] = True
    asks_for: ClassVar[str] = "what the layers are given"
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
        super().__init__("consumer")
        check_count(self.name, "max_batches", max_batches)
        check_count(self.name, "positions", positions)
        check_share(self.name, "ridge", ridge)
        self.ridge, self.update, self.sequential = ridge, update, sequential
        self.positions, self.max_batches = positions, max_batches

    @property
    def updates(self) -> bool:
        return self.update

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        return kind in ("conv", "linear") and member.role == "consumer" and len(shape) > 1

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

    @property
    @abstractmethod
    def solver(self) -> Solver:
        """How what survives is fitted."""

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        parameters = dict(reading.model.named_parameters())
        found = second_moments(reading, names, f"criterion {self.name!r}", self.positions)
        signals: dict[str, Tensor] = {}
        for name in names:
            moments = found.pop(name)
            assert moments.weight is not None
            matrix = moments.weight.matrix(parameters[name].detach())
            grams = contributions(moments, matrix, moments.weight.canonical_shape[1])
            # With outputs first, the dimension of inputs is one group's, and all share it.
            first = moments.weight.storage == "inputs first"
            signals[name] = torch.block_diag(*grams) if first else grams.sum(0)
        return hand_over(reading, names, signals, receive, after_batch)

    def refit(self, survivors: Survivors) -> list[Refit]:
        return survivors.reconstruct(
            self.solver, sequential=self.sequential, positions=self.positions
        )
