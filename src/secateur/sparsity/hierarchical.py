"""Two levels: whole units become zero, then N:M inside what stays."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import torch
from torch import Tensor

from secateur.budget import check_budget
from secateur.errors import BudgetError
from secateur.sparsity.base import Chosen, SparseGranularity, Task
from secateur.sparsity.nm import nm_mask
from secateur.sparsity.select import Layer, removed_globally, zeros_per_layer, zeros_wanted
from secateur.sparsity.semi import SemiStructured
from secateur.sparsity.tiles import Tiling
from secateur.weights import Weight

__all__ = ["Hierarchical", "nm_within"]


@dataclasses.dataclass(frozen=True)
class Hierarchical(SparseGranularity):
    """Whole units go until the sparsity is met, counting what N:M makes zero in the others.

    N:M runs go along the inputs that are left at an output and kernel position, closed up: after
    ``vector:16`` that is the dense matrix of the columns that stay, as sparse hardware multiplies
    it. A unit's score is the mean of its entries' scores.

    Attributes
    ----------
    units : SparseGranularity
    within : SemiStructured
    """

    units: SparseGranularity
    within: SemiStructured

    at_once: ClassVar[bool] = True

    def budget(self, given: object) -> dict[str, float]:
        # Without one, N:M alone decides and every unit stays.
        return check_budget(given, sparse=True) if given else {}

    def misfit(self, weight: Weight) -> str | None:
        return self.units.misfit(weight) or self.within.misfit(weight)

    def tiling(self, weight: Weight) -> Tiling:
        return self.units.tiling(weight)

    def choose(self, task: Task) -> Chosen:
        scorer = task.scorer([(weight, self.within.tiling(weight)) for weight in task.weights])
        tilings = [self.tiling(weight) for weight in task.weights]

        def means(weight: Weight, tiling: Tiling) -> Tensor:
            return tiling.means(scorer.scores(weight))

        layers = [
            Layer(weight.name, tiling, functools.partial(means, weight, tiling), task.min_keep)
            for weight, tiling in zip(task.weights, tilings, strict=True)
        ]
        entries = [layer.entries for layer in layers]
        wanted = zeros_wanted(task.sparsity or 0.0, sum(entries))
        removed: dict[str, Tensor] = {}
        counts = None
        if task.sparsity is not None:
            shapes = [tiling.shape for tiling in tilings]
            counts = zeros_per_layer(entries, shapes, task.sparsity, task.allocation)
        if counts is None:
            removed = self._removed(layers, wanted, task.sparsity is not None)
        else:
            for layer, count in zip(layers, counts, strict=True):
                removed |= self._removed([layer], count, True)
        chosen = Chosen()
        for weight, tiling in zip(task.weights, tilings, strict=True):
            stay = ~tiling.spread(removed[weight.name])
            scores = scorer.scores(weight)
            mask = nm_within(scores, stay.to(scores.device), *self.within.sizes)
            chosen.add(weight, mask.cpu())
        return chosen

    def _removed(self, layers: list[Layer], wanted: int, asked: bool) -> dict[str, Tensor]:
        """The fewest lowest units with which so many entries are zero after N:M."""
        entries = sum(layer.entries for layer in layers)
        removed = removed_globally(layers, 0)
        zeros = self._zeros(layers, removed)
        if asked and wanted < zeros:
            names = layers[0].name if len(layers) == 1 else "the weights"
            raise BudgetError(
                f"the sparsity {wanted / entries:.4f} is too low for granularity {self.name!r}: "
                f"its N:M alone makes {zeros / entries:.4f} of {names} zero"
            )
        going, spare = 0, sum(layer.spare() for layer in layers)
        while zeros < wanted:
            # Removing an entry makes at most one more zero, so this never takes too many units.
            going += wanted - zeros
            if going > spare:
                most = self._zeros(layers, removed_globally(layers, spare))
                raise BudgetError(
                    f"the sparsity {wanted / entries:.4f} cannot be met: at most "
                    f"{most / entries:.4f} is left when every weight keeps its floor (min_keep)"
                )
            removed = removed_globally(layers, going)
            going = max(going, _entries(layers, removed))
            zeros = self._zeros(layers, removed)
        return removed

    def _zeros(self, layers: list[Layer], removed: dict[str, Tensor]) -> int:
        keep, of = self.within.sizes
        zeros = 0
        for layer in layers:
            left = (~layer.tiling.spread(removed[layer.name])).sum(dim=1)
            kept = keep * (left // of) + (left % of).clamp(max=keep)
            zeros += layer.entries - int(kept.sum())
        return zeros


def _entries(layers: list[Layer], removed: dict[str, Tensor]) -> int:
    return sum(int(layer.tiling.sizes()[removed[layer.name]].sum()) for layer in layers)


def nm_within(scores: Tensor, stay: Tensor, keep: int, of: int) -> Tensor:
    """N:M over the entries that stay, closed up along the inputs.

    Parameters
    ----------
    scores : Tensor, shape [outputs, inputs, *kernel]
    stay : Tensor of bool
        Of the same shape.
    keep, of : int

    Returns
    -------
    Tensor of bool
        True where kept; never where ``stay`` is False.

    Examples
    --------
    >>> stay = torch.tensor([[True, False, True, True, True, True]])
    >>> nm_within(torch.tensor([[1.0, 9.0, 2.0, 3.0, 4.0, 5.0]]), stay, 2, 4).int()
    tensor([[0, 0, 0, 1, 1, 1]], dtype=torch.int32)
    """
    # A stable sort of booleans moves what stays to the front, in its order.
    order = (~stay).to(torch.uint8).argsort(dim=1, stable=True)
    front = stay.gather(1, order)
    closed = scores.gather(1, order).masked_fill(~front, -math.inf)
    kept = nm_mask(closed, keep, of) & front
    return torch.zeros_like(stay).scatter_(1, order, kept)
