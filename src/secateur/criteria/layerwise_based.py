"""What criteria on a layer's own output share: the inputs' second moments, and the update."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from secateur.criteria.base import Criterion, Kind, View
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.criteria.gradient_based import check_count, hand_over
from secateur.errors import InputError
from secateur.layerwise import Refit, Survivors, refit_weights
from secateur.observing import Reading, Receive
from secateur.observing.moments import Moments, second_moments
from secateur.weights import Weight

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["POSITIONS", "LayerwiseCriterion", "check_share", "columns_as"]

# Neighbouring places say much the same; He et al. 2017 take ten of an image.
POSITIONS = 100


class LayerwiseCriterion(ElementwiseCriterion):
    """Base of criteria that ask what a layer's output loses, and repair it afterwards.

    Parameters
    ----------
    damp : float, default 0.01
        Share of the mean diagonal that is added to the Hessian's diagonal; in the update, how
        strongly weights are held where they are.
    update : bool, default True
        Fit what survives to what the dense layer computed.
    sequential : bool, default True
        Fit layers in the order in which they run, each on what the pruned layers before it
        produce; reads the data once per layer. False reads it once, on the dense inputs.
    view : {"group", "producer", "consumer"}, default "group"
        Which weights count.
    positions : int or None, default 100
        Output positions of a convolution that count, of every sample, drawn at random; None takes
        all of them.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.
    """

    needs_data: ClassVar[bool] = True
    asks_for: ClassVar[str] = "what the layers are given"

    def __init__(
        self,
        damp: float = 0.01,
        update: bool = True,
        sequential: bool = True,
        positions: int | None = POSITIONS,
        view: View = "group",
        max_batches: int | None = None,
    ) -> None:
        super().__init__(view)
        check_count(self.name, "max_batches", max_batches)
        check_count(self.name, "positions", positions)
        check_share(self.name, "damp", damp)
        self.damp, self.update, self.sequential = damp, update, sequential
        self.positions, self.max_batches = positions, max_batches

    @property
    def updates(self) -> bool:
        return self.update

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        # An embedding multiplies nothing.
        return kind != "embedding" and Criterion.looks_at(self, member, shape, kind)

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        # What `stream` hands over is the score; never negative.
        assert grad is not None
        return grad.abs_()

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
            weight = moments.weight
            matrix = weight.matrix(parameters[name].detach()).to(moments.inputs.dtype)
            signals[name] = self.signal(weight, matrix, moments)
        return hand_over(reading, names, signals, receive, after_batch)

    @abstractmethod
    def signal(self, weight: Weight, matrix: Tensor, moments: Moments) -> Tensor:
        """What stands beside a weight.

        Parameters
        ----------
        weight : Weight
        matrix : Tensor, shape [groups, outputs of a group, kernel positions * inputs]
            Its entries.
        moments : Moments
            Of what it multiplies.

        Returns
        -------
        Tensor
            Of the parameter's shape.
        """

    def refit(self, survivors: Survivors) -> list[Refit]:
        def solve(
            weight: Weight, moments: Moments, matrix: Tensor, mask: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            return refit_weights(moments, matrix, mask, self.damp), mask

        return survivors.reconstruct(solve, sequential=self.sequential, positions=self.positions)


def check_share(criterion: str, option: str, value: float) -> None:
    """Refuse an option that is a share of something, if it is not above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InputError(f"criterion {criterion!r}: {option} must be above 0, not {value!r}")


def columns_as(weight: Weight, matrix: Tensor, columns: Tensor) -> Tensor:
    """``matrix² * columns`` as the module stores the weight; `columns` is ``[groups, d]``."""
    scores = matrix.double().square() * columns[:, None].double()
    return weight.from_matrix(scores).to(torch.promote_types(matrix.dtype, torch.float32))
