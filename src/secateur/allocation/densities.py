"""Shares of layers from their shapes alone: Erdős-Rényi-kernel, and uniform with exceptions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from secateur.allocation.base import ALLOCATIONS, Allocation
from secateur.allocation.groups import GroupScores
from secateur.errors import BudgetError, InputError

__all__ = ["ERK", "UniformPlus", "spread"]


@ALLOCATIONS.register("erk")
class ERK(Allocation):
    """Erdős-Rényi-kernel: a layer's density follows the sum of its dimensions over their product.

    Evci et al. 2020 (arXiv:1911.11134): density = ε · (inputs + outputs + kernel sizes) /
    (inputs · outputs · kernel sizes), with one ε for all layers, such that the budget is met; a
    layer whose density would exceed one stays dense, and ε is found anew for the others. Large
    layers become the sparsest.

    Of whole units, a group keeps the share ε · (sums of the dimensions of the weights that make it)
    / (their products), with one ε for all groups, and all of it where that exceeds one. The paper
    is about single weights; this is the same rule for what their layers have in common.

    Examples
    --------
    >>> shares = ERK().sparsities([(16, 3, 3, 3), (32, 16, 3, 3), (10, 32)], 0.9)
    >>> [round(1 - share, 4) for share in shares]
    [0.2564, 0.0519, 0.5814]
    """

    name = "erk"

    def sparsities(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float] | None:
        raw = [sum(shape) / math.prod(shape) for shape in shapes]
        entries = [math.prod(shape) for shape in shapes]
        return [1 - density for density in spread(raw, entries, 1 - sparsity)]

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The negative of the ε below which each unit is gone."""
        entries = sum(map(math.prod, group.shapes))
        raw = sum(map(sum, group.shapes)) / entries if entries else 1.0
        return (shares - 1) / raw


@ALLOCATIONS.register("uniform+")
class UniformPlus(Allocation):
    """Uniform, but the first convolution stays dense and the last linear layer keeps 20 %.

    Gale et al. 2019 (arXiv:1902.09574). First and last are in the order of the model's modules;
    the exceptions hold only for a first weight with a kernel and a last one without. All others
    share what the budget asks for. For sparse granularities.

    Examples
    --------
    >>> shares = UniformPlus().sparsities([(4, 1, 5, 5), (10, 10, 3, 3), (10, 10)], 0.88)
    >>> [round(share, 3) for share in shares]
    [0.0, 0.987, 0.8]
    """

    name = "uniform+"
    structured = False

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        raise InputError(
            "allocation 'uniform+' makes exceptions of weights and is for sparse granularities, "
            "such as 'element'; structured ones take 'uniform', 'global' or 'erk'"
        )

    def sparsities(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float] | None:
        entries = [math.prod(shape) for shape in shapes]
        zeros = sparsity * sum(entries)
        most = [1.0] * len(shapes)
        if len(shapes) > 1 and len(shapes[0]) > 2:
            most[0] = 0.0
        if len(shapes) > 1 and len(shapes[-1]) == 2:
            most[-1] = 0.8
        room = sum(cap * size for cap, size in zip(most, entries, strict=True))
        if zeros > room * (1 + 1e-12):
            raise BudgetError(
                f"allocation 'uniform+' reaches a sparsity of at most {room / sum(entries):.4f} "
                f"here, not {sparsity:g}: the first layer stays dense and the last keeps 20 %"
            )
        # One share for all that are not held back by their limit.
        held: set[int] = set()
        while True:
            free = [at for at in range(len(shapes)) if at not in held]
            left = zeros - sum(most[at] * entries[at] for at in held)
            share = left / max(sum(entries[at] for at in free), 1)
            over = {at for at in free if share > most[at]}
            if not over:
                return [most[at] if at in held else share for at in range(len(shapes))]
            held |= over


def spread(raw: Sequence[float], entries: Sequence[int], density: float) -> list[float]:
    """Densities in proportion to `raw`, none above one, whose weighted mean is `density`.

    Examples
    --------
    >>> spread([3.0, 1.0], [10, 10], 0.8)
    [1.0, 0.6]
    """
    dense: set[int] = set()
    kept = density * sum(entries)
    while True:
        free = [at for at in range(len(raw)) if at not in dense]
        weight = sum(raw[at] * entries[at] for at in free)
        left = kept - sum(entries[at] for at in dense)
        scale = max(left, 0.0) / weight if weight else 0.0
        over = {at for at in free if scale * raw[at] > 1 + 1e-12}
        if not over:
            return [1.0 if at in dense else min(scale * raw[at], 1.0) for at in range(len(raw))]
        dense |= over
