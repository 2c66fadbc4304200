"""What a sparse granularity is: which parts of a weight become zero as one unit."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from secateur.allocation import Allocation
from secateur.budget import check_budget
from secateur.layerwise import Amount
from secateur.sparsity.select import Layer, removed_per_row, removed_under
from secateur.sparsity.tiles import Tiling, count_true
from secateur.weights import Weight

if TYPE_CHECKING:
    from secateur.sparsity.scoring import SparseScorer

__all__ = ["Chosen", "Row", "SparseGranularity", "Task"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes
    ----------
    name : str
    pattern : str
        Three entries for outputs, inputs and kernel positions. A bare axis is kept apart,
        ``(i)`` is spanned, ``o/V`` is cut into tiles of V; ``(w)`` spans only the last axis of
        the kernel.
    default : tuple of int
        Sizes of the tiles, in the order in which they occur.
    needs_kernel : bool
        Whether the weight must have kernel positions: a linear layer has no stripes.
    summary : str
    source : str
        The paper: its arXiv number, or authors and year.
    """

    name: str
    pattern: str
    default: tuple[int, ...]
    needs_kernel: bool
    summary: str
    source: str


@dataclasses.dataclass
class Task:
    """What a granularity is asked to choose.

    Attributes
    ----------
    weights : list of Weight
        Those that it fits.
    scorer : callable
        Makes the scorer of some units, a tiling for each weight. Every call may cost a pass over
        the data.
    sparsity : float or None
        Share of all entries that becomes zero; None for what the granularity itself makes zero.
    allocation : Allocation
    min_keep : int
        Units that every weight keeps at least.
    masks : dict
        Weight name -> mask that is on it already, True where kept, as the module stores it.
    ranked : callable, optional
        Scores of one weight's units -> what they are ranked by against those of others; the
        scores themselves without one.
    by_row : bool
        Whether units compete with those of their own output only.
    """

    weights: list[Weight]
    scorer: Callable[[Sequence[tuple[Weight, Tiling]]], SparseScorer]
    sparsity: float | None
    allocation: Allocation
    min_keep: int = 1
    masks: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    ranked: Callable[[Tensor], Tensor] | None = None
    by_row: bool = False

    def zeros(self, weight: Weight, tiling: Tiling) -> Tensor | None:
        """How many entries of every unit are masked already; None where none can be."""
        mask = self.masks.get(weight.name)
        if mask is None:
            return None
        gone = ~weight.canonical(mask)
        return gone if math.prod(tiling.tile) == 1 else tiling.sums(gone.to(torch.int64))


@dataclasses.dataclass
class Chosen:
    """What a granularity chose.

    Attributes
    ----------
    masks : dict
        Weight name -> ``[outputs, inputs, *kernel]`` of bool, True where kept.
    counts : dict
        Weight name -> (units, units that stay).
    settings : dict
        What the plan has to remember beyond the masks, as JSON values.
    """

    masks: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, weight: Weight, mask: Tensor) -> None:
        """Note a mask whose units are single entries."""
        self.masks[weight.name] = mask
        self.counts[weight.name] = (mask.numel(), int(mask.sum()))


@dataclasses.dataclass(frozen=True)
class SparseGranularity:
    """A row of the table with its sizes: what becomes zero as one unit.

    Attributes
    ----------
    name : str
        As users write it: ``"block:4x8"``.
    row : Row
    sizes : tuple of int
        Of the tiles.
    """

    name: str
    row: Row
    sizes: tuple[int, ...]

    at_once: ClassVar[bool] = False
    """Whether part of the zeros come with the first choice, whatever the sparsity."""

    def budget(self, given: object) -> dict[str, float]:
        """The budget as given, checked; the default where it is None.

        Raises
        ------
        BudgetError
            When it is malformed, or contradicts the granularity.
        """
        return check_budget(given, sparse=True)

    def towards(self, sparsity: float) -> tuple[SparseGranularity, float]:
        """What is chosen on the way to such a share of zeros, and the share that it makes zero."""
        return self, sparsity

    def misfit(self, weight: Weight) -> str | None:
        """Why it cannot be applied to a weight; None where it can."""
        shape = weight.canonical_shape
        if self.row.needs_kernel and len(shape) < 3:
            return f"granularity {self.name!r} needs a kernel, and this weight has none"
        for axis, size in zip(shape, self._tile_sizes(), strict=False):
            if size is not None and size > axis:
                return f"granularity {self.name!r} is larger than the weight, {list(shape)}"
        return None

    def tiling(self, weight: Weight) -> Tiling:
        """The weight's units."""
        shape = weight.canonical_shape
        outputs, inputs, kernel = self.row.pattern.split()
        sizes = iter(self.sizes)
        tile = [_step(outputs, shape[0], sizes), _step(inputs, shape[1], sizes)]
        for axis, size in enumerate(shape[2:], start=3):
            spanned = kernel == "(k)" or (kernel == "(w)" and axis == len(shape))
            tile.append(size if spanned else 1)
        return Tiling(tuple(shape), tuple(tile))

    def amount(self, kept: Tensor) -> Amount | None:
        """How much of a weight a mask takes, where only the number matters; None elsewhere.

        Parameters
        ----------
        kept : Tensor of bool
            True where kept.
        """
        if self.row.name != "element":
            return None
        return Amount(zeros=kept.numel() - int(kept.sum()))

    def choose(self, task: Task) -> Chosen:
        """Decide which entries of the weights stay.

        Raises
        ------
        BudgetError
            When the sparsity cannot be met.
        """
        units = [(weight, self.tiling(weight)) for weight in task.weights]
        scorer = task.scorer(units)

        def score(weight: Weight) -> Tensor:
            scores = scorer.scores(weight)
            return scores if task.ranked is None else task.ranked(scores)

        layers = [
            Layer(
                weight.name,
                tiling,
                functools.partial(score, weight),
                task.min_keep,
                task.zeros(weight, tiling),
                functools.partial(scorer.runs, weight) if task.ranked is None else None,
            )
            for weight, tiling in units
        ]
        shapes, sparsity = [tiling.shape for _, tiling in units], task.sparsity or 0.0
        # One granularity holds for all weights: outputs are apart in all of them, or in none.
        if task.by_row and all(tiling.tile[0] == 1 for _, tiling in units):
            removed = {layer.name: removed_per_row(layer, sparsity) for layer in layers}
        else:
            removed = removed_under(layers, shapes, sparsity, task.allocation)
        chosen = Chosen()
        for layer in layers:
            gone, count = removed.pop(layer.name), layer.tiling.count
            empty = gone if layer.gone is None else gone | layer.gone
            chosen.counts[layer.name] = (count, count - count_true(empty))
            chosen.masks[layer.name] = ~layer.tiling.spread(gone)
        return chosen

    def _tile_sizes(self) -> list[int | None]:
        sizes = iter(self.sizes)
        return [next(sizes) if "/" in axis else None for axis in self.row.pattern.split()[:2]]


def _step(axis: str, size: int, sizes: Iterator[int]) -> int:
    if axis.startswith("("):
        return size
    return min(next(sizes), size) if "/" in axis else 1
