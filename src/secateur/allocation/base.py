"""What an allocation is: from scores of units to the order in which they go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from secateur import specs
from secateur.allocation.curves import Sensitivity
from secateur.allocation.groups import GroupScores, checked, judged_order
from secateur.allocation.problem import Amounts, Problem
from secateur.errors import InputError
from secateur.registry import Registry
from secateur.specs import Spelled

__all__ = ["ALLOCATIONS", "Allocation", "as_allocation"]

ALLOCATIONS: Registry[type[Allocation]] = Registry("allocation")


UNUSED = 0.01
"""Share of the dense cost that may be left unused, before others get it back."""


class Allocation(Spelled, ABC):
    """Base of every allocation: how many units each group loses.

    Most rank units over all groups (`keys`): the budget is then met by the shortest sufficient
    start of that order. One that decides otherwise, by trying models out for instance, overrides
    `amounts`. Within a group, units with equal scores go by index, lowest first.

    Attributes
    ----------
    name : str
        The name in messages and plans.
    structured : bool
        Whether it serves structured granularities.
    by_kind : bool
        Whether it asks which groups are of the same structure.
    tune : callable or None
        What is done to a pruned copy of the model before it is tried out.
    """

    structured: ClassVar[bool] = True
    by_kind: ClassVar[bool] = False
    tune: Callable[[nn.Module], object] | None = None

    def amounts(self, problem: Problem) -> Amounts:
        """Return how many units of every group go.

        Parameters
        ----------
        problem : Problem
            Its budget is known to be met when all goes that may.

        Returns
        -------
        tuple of int
            One of the allowed numbers for every group, with which the budget is met; by default
            the shortest sufficient start of `order`. Where the last step of that took several
            units, and over a hundredth of the dense cost is left unused, its group stays as it is
            and the start is shortened for the others.
        """
        owners = np.array([owner for owner, _ in self.order(problem.groups)], dtype=np.int64)
        least = np.zeros(len(problem.groups), dtype=np.int64)

        def at(prefix: int) -> Amounts:
            gone = np.bincount(owners[:prefix], minlength=len(problem.groups))
            return problem.floor(np.maximum(gone, least).tolist())

        high = len(owners)
        while True:
            low = 0
            while low < high:
                middle = (low + high) // 2
                if problem.met(at(middle)):
                    high = middle
                else:
                    low = middle + 1
            amounts = at(high)
            if not high or problem.unused(amounts) <= UNUSED:
                return amounts
            last = owners[high - 1]
            if amounts[last] - at(high - 1)[last] <= 1:
                # No rule for sizes made it so large: a layer is as coarse as its units.
                return amounts
            least[last] = amounts[last]

    def order(self, groups: Sequence[GroupScores]) -> list[tuple[int, int]]:
        """Return ``(group index, unit index)`` of every judged unit, first to go first.

        Raises
        ------
        InputError
            When scores are not finite, or the arrays of a group differ in length.
        """
        kept: list[tuple[np.ndarray, ...]] = []
        for index, group in enumerate(groups):
            scores, weights, _ = checked(group)
            ranked = judged_order(group)
            # The middle of the share of the group that is gone once this unit is.
            shares = (np.cumsum(weights[ranked]) - weights[ranked] / 2) / max(weights.sum(), 1e-300)
            keys = self.keys(group, scores[ranked], shares)
            kept.append((keys, shares, np.full(len(ranked), index), ranked))
        if not kept:
            return []
        keys, shares, owners, units = (np.concatenate(column) for column in zip(*kept, strict=True))
        # Groups that tie lose equal shares, so a constant criterion empties no group first.
        final = np.lexsort((units, owners, shares, keys))
        return list(zip(owners[final].tolist(), units[final].tolist(), strict=True))

    @abstractmethod
    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return what the units of one group are ranked by against those of other groups.

        Parameters
        ----------
        group : GroupScores
        scores : ndarray, shape [judged units]
            Scores in ascending order.
        shares : ndarray, shape [judged units]
            The share of the group, between 0 and 1, that each unit stands at in that order.

        Returns
        -------
        ndarray, shape [judged units]
            Never descending, so that units of one group go in the order of their scores.
        """

    def sparsities(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float] | None:
        """Return the sparsity of every weight, where parts of weights become zero.

        Parameters
        ----------
        shapes : sequence of tuple of int
            ``(outputs, inputs, *kernel)`` of every weight.
        sparsity : float
            Share of all their entries that becomes zero.

        Returns
        -------
        list of float or None
            None where one ranking over all weights decides.

        Raises
        ------
        InputError
            When the allocation is for structured granularities only.
        """
        raise InputError(
            f"allocation {self.name!r} is for structured granularities; sparse ones take "
            "'global' or 'uniform'"
        )

    def informed(
        self, names: Sequence[str], scanned: Callable[[tuple[float, ...]], Sensitivity]
    ) -> Allocation:
        """Return the allocation with what it wants to know of weights before it spreads zeros.

        Parameters
        ----------
        names : sequence of str
            The weights, in the order in which `sparsities` is given their shapes.
        scanned : callable
            Shares to try -> how sensitive the model is to such shares of zeros in every weight.
        """
        return self

    def ranked(self, scores: Tensor, squared: bool) -> Tensor:
        """Return what the units of one weight are ranked by against those of others.

        Parameters
        ----------
        scores : Tensor of float32, shape [*grid]
        squared : bool
            Whether the scores are squares already, as those of ``magnitude`` are.

        Returns
        -------
        Tensor of float32, shape [*grid]
            In the order of the scores; the scores themselves by default.
        """
        return scores

    def by_row(self, scope: str) -> bool:
        """Whether every output of a weight loses the same share, for a criterion of this scope."""
        return False


def as_allocation(allocation: str | Allocation) -> Allocation:
    """Return the allocation meant by a name (with options if need be) or an object.

    Raises
    ------
    UnknownNameError
        For an unknown name or option; the message suggests the nearest.
    InputError
        For anything else.

    Examples
    --------
    >>> as_allocation("uniform").name
    'uniform'
    """
    if isinstance(allocation, str):
        return specs.build(ALLOCATIONS, allocation)
    if isinstance(allocation, Allocation):
        return allocation
    raise InputError(f"allocation must be a name or an Allocation, not {type(allocation).__name__}")
