"""Uniform: every group loses the same share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from secateur.allocation.base import ALLOCATIONS, Allocation
from secateur.allocation.groups import GroupScores
from secateur.allocation.problem import Amounts, Problem
from secateur.errors import InputError, suggestion

__all__ = ["Scope", "Uniform"]

Scope = Literal["auto", "layer", "row"]


@ALLOCATIONS.register("uniform")
class Uniform(Allocation):
    """The same share of every group: the baseline, and what FPGM's published results use.

    He et al. 2019 (arXiv:1811.00250) prune every layer at one rate.

    Parameters
    ----------
    scope : {"auto", "layer", "row"}, default "auto"
        Where parts of weights become zero: the same share of every layer, or of every output of
        every layer, exactly ``floor(units of the output * sparsity)``. ``"auto"`` follows the
        criterion: ``"row"`` under ``wanda``, which compares within an output, else ``"layer"``.
        Units that span or tile outputs are compared within the layer.
    even : bool, default False
        Whether groups of the same structure and size lose the same number of units, so that one
        number can say how large all of them are, as a transformer's configuration does. It may go
        below the budget by a unit of each such group.

    Examples
    --------
    >>> wide = GroupScores("wide", np.array([4.0, 3.0, 2.0, 1.0]))
    >>> small = GroupScores("small", np.array([0.1, 0.2]))
    >>> Uniform().order([wide, small])
    [(0, 3), (1, 0), (0, 2), (0, 1), (1, 1), (0, 0)]
    """

    name = "uniform"

    def __init__(self, scope: Scope = "auto", even: bool = False) -> None:
        if scope not in get_args(Scope):
            raise InputError(
                f"allocation 'uniform': unknown scope {scope!r}"
                + suggestion(str(scope), get_args(Scope))
            )
        self.scope, self.even = scope, even

    @property
    def by_kind(self) -> bool:  # type: ignore[override]
        return self.even

    def amounts(self, problem: Problem) -> Amounts:
        amounts = super().amounts(problem)
        if not self.even:
            return amounts
        most: dict[tuple[str, int], int] = {}
        keys = [(group.kind, len(group.scores)) for group in problem.groups]
        for key, count in zip(keys, amounts, strict=True):
            most[key] = max(most.get(key, 0), count)
        return problem.floor([most[key] for key in keys])

    def by_row(self, scope: str) -> bool:
        return "row" in (self.scope, scope if self.scope == "auto" else "")

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return shares

    def sparsities(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float] | None:
        return [sparsity] * len(shapes)
