"""From scores of units and a sparsity to masks, exactly so many zeros."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from secateur.allocation import Allocation
from secateur.errors import BudgetError
from secateur.sparsity.threshold import RUN, Cut, Ranked, find_cut, ordered
from secateur.sparsity.tiles import Tiling, count_true

__all__ = [
    "Layer",
    "removed_globally",
    "removed_per_layer",
    "removed_per_row",
    "removed_under",
    "zeros_per_layer",
    "zeros_wanted",
]


class Layer:
    """The units of one weight, with scores that are made when asked for.

    Parameters
    ----------
    name : str
    tiling : Tiling
    score : callable
        Returns one score per unit, ``[*grid]``, the same at every call.
    min_keep : int, default 1
        Units that stay, whatever their scores: the highest.
    zeros : Tensor, shape [*grid], optional
        Entries of every unit that are masked already. A unit of nothing else goes before all
        others, and of the others only what is not zero yet counts.
    runs : callable, optional
        Yields the same scores in runs of the units' order, ``[units of the run]``, where they
        need not be made all at once. A run may be overwritten by the next.

    Attributes
    ----------
    entries : int
    already : int
        Zeros that stay whatever is chosen, since their units are not wholly masked.
    """

    def __init__(
        self,
        name: str,
        tiling: Tiling,
        score: Callable[[], Tensor],
        min_keep: int = 1,
        zeros: Tensor | None = None,
        runs: Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        self.name, self.tiling, self.min_keep = name, tiling, min(min_keep, tiling.count)
        self._score, self._runs = score, runs
        self.each = math.prod(tiling.tile)
        self.sizes = None if tiling.even else tiling.sizes()
        self.entries = math.prod(tiling.shape)
        self.gone: Tensor | None = None
        self.already = 0
        if zeros is not None and bool(zeros.any()):
            self.gone = zeros == (self.each if self.sizes is None else self.sizes)
            partly = zeros.masked_fill(self.gone, 0)
            self.already = int(partly.sum())
            if self.already:
                self.sizes = tiling.sizes() - partly

    def plain(self) -> Tensor:
        """The scores without a floor, ``[*grid]``; what is masked already goes first."""
        scores = self._score().detach().cpu().float()
        return scores if self.gone is None else scores.masked_fill(self.gone, -math.inf)

    def ranked(self) -> Iterator[Ranked]:
        """Scores of runs of units, in their order, and how many entries go with every unit."""
        start = 0
        runs = self._score().flatten().split(RUN) if self._runs is None else self._runs()
        for run in runs:
            here = slice(start, start + len(run))
            scores, start = run.detach().cpu().float(), here.stop
            if self.gone is not None:
                scores = scores.masked_fill(self.gone.flatten()[here], -math.inf)
            yield scores, self.each if self.sizes is None else self.sizes.flatten()[here]

    def removed(self, cut: Cut, equal: int, ranked: Iterable[Ranked]) -> tuple[Tensor, int]:
        """Units that a cut removes, and how many entries go among those that equal it."""
        gone, start, taken = np.empty(self.tiling.count, dtype=bool), 0, 0
        for scores, sizes in ranked:
            keys = ordered(scores)
            here = gone[start : start + len(keys)]
            start += len(keys)
            np.less(keys, cut.key, out=here)
            level = np.flatnonzero(keys == cut.key) if taken < equal else ()
            if len(level):
                if isinstance(sizes, int):
                    sums = sizes * np.arange(1, len(level) + 1)
                else:
                    sums = np.cumsum(sizes.numpy()[level])
                count = min(int(np.searchsorted(sums, equal - taken)) + 1, len(level))
                here[level[:count]] = True
                taken += int(sums[count - 1])
        return torch.from_numpy(gone).reshape(self.tiling.grid), taken

    def empties(self, removed: Tensor) -> bool:
        """Whether fewer units than the floor are left without some."""
        return self.tiling.count - count_true(removed) < self.min_keep

    def down_to_floor(self) -> Tensor:
        """All units that can go, ``[*grid]`` of bool: the lowest, until only the floor is left."""

        def alike() -> Iterator[Ranked]:
            return ((scores, 1) for scores, _ in self.ranked())

        count = self.tiling.count - self.min_keep
        if not count:
            return torch.zeros(self.tiling.grid, dtype=torch.bool)
        cut = find_cut(alike, count)
        return self.removed(cut, cut.equal, alike())[0]

    def zeros_of(self, removed: Tensor) -> int:
        """Entries that become zero with some units."""
        if self.sizes is None:
            return count_true(removed) * self.each
        return int(self.sizes[removed].sum())

    def spare(self) -> int:
        """Entries that can be zero at all."""
        if self.sizes is None:
            return (self.tiling.count - self.min_keep) * self.each
        return self.zeros_of(self.down_to_floor()) + self.already

    def spare_at_least(self) -> int:
        """Entries that can be zero whichever units the floor keeps, without a look at scores."""
        return self.entries - self.min_keep * self.each


def zeros_wanted(sparsity: float, entries: int) -> int:
    """How many of so many entries are zero at a sparsity.

    Examples
    --------
    >>> zeros_wanted(0.1, 10), zeros_wanted(0.3, 10), zeros_wanted(0.4, 16)
    (1, 3, 6)
    """
    return math.floor(sparsity * entries + 1e-9)


def removed_globally(layers: Sequence[Layer], zeros: int) -> dict[str, Tensor]:
    """The lowest units of all layers, one ranking over all, until so many entries are zero.

    Returns
    -------
    dict
        Layer name -> units that go, ``[*grid]`` of bool.

    Raises
    ------
    BudgetError
        When too few entries can go.
    """
    if zeros > sum(layer.spare_at_least() for layer in layers):
        spare = sum(layer.spare() for layer in layers)
        if zeros > spare:
            entries = sum(layer.entries for layer in layers)
            raise BudgetError(
                f"the sparsity {zeros / entries:.4f} cannot be met: at most "
                f"{spare / entries:.4f} is left when every layer keeps its floor (min_keep)"
            )
    zeros -= sum(layer.already for layer in layers)
    if zeros <= 0:
        return {layer.name: torch.zeros(layer.tiling.grid, dtype=torch.bool) for layer in layers}
    removed: dict[str, Tensor] = {}
    competing = list(layers)
    while competing:
        removed |= _lowest(competing, zeros)
        # Floors can only raise the cut, so a layer that falls below its own loses all above it
        # whatever becomes of the others; those compete for what is left.
        below = [layer for layer in competing if layer.empties(removed[layer.name])]
        if not below:
            break
        for layer in below:
            removed[layer.name] = layer.down_to_floor()
            zeros -= layer.zeros_of(removed[layer.name])
            competing.remove(layer)
    return removed


def _lowest(layers: Sequence[Layer], zeros: int) -> dict[str, Tensor]:
    """The lowest units of all layers, whatever that leaves of any."""
    cut = find_cut(lambda: itertools.chain.from_iterable(x.ranked() for x in layers), zeros)
    left, removed = cut.equal, {}
    for layer in layers:
        removed[layer.name], taken = layer.removed(cut, left, layer.ranked())
        left -= taken
    return removed


def removed_per_layer(layers: Sequence[Layer], zeros: Sequence[int]) -> dict[str, Tensor]:
    """The lowest units of every layer, until so many of its entries are zero."""
    removed: dict[str, Tensor] = {}
    for layer, count in zip(layers, zeros, strict=True):
        removed |= removed_globally([layer], count)
    return removed


def removed_per_row(layer: Layer, sparsity: float) -> Tensor:
    """The lowest units of every output: ``floor(units of the output * sparsity)`` of each.

    Every output keeps at least one unit below a sparsity of one, so no other floor is needed.

    Returns
    -------
    Tensor of bool, ``[*grid]``
    """
    scores = layer.plain().reshape(layer.tiling.grid[0], -1)
    count = zeros_wanted(sparsity, scores.shape[1])
    order = scores.argsort(dim=1, stable=True)[:, :count]
    removed = torch.zeros(scores.shape, dtype=torch.bool)
    removed.scatter_(1, order.cpu(), torch.ones_like(order, dtype=torch.bool).cpu())
    return removed.reshape(layer.tiling.grid)


def removed_under(
    layers: Sequence[Layer],
    shapes: Sequence[tuple[int, ...]],
    sparsity: float,
    allocation: Allocation,
) -> dict[str, Tensor]:
    """Units that go so that this share of all entries is gone, spread as an allocation says.

    Parameters
    ----------
    layers : sequence of Layer
    shapes : sequence of tuple of int
        ``(outputs, inputs, *kernel)`` of every layer's weight.
    sparsity : float
    allocation : Allocation

    Returns
    -------
    dict
        Layer name -> units that go, ``[*grid]`` of bool.

    Raises
    ------
    BudgetError
        When too few entries can go.
    """
    zeros = zeros_wanted(sparsity, sum(layer.entries for layer in layers))
    counts = zeros_per_layer([layer.entries for layer in layers], shapes, sparsity, allocation)
    if counts is None:
        return removed_globally(layers, zeros)
    for layer, count in zip(layers, counts, strict=True):
        if count > layer.spare_at_least() and count > layer.spare():
            raise BudgetError(
                f"the sparsity {count / layer.entries:.4f} of {layer.name!r} cannot be met: at "
                f"most {layer.spare() / layer.entries:.4f} is left above its floor (min_keep)"
            )
    return removed_per_layer(layers, counts)


def zeros_per_layer(
    entries: Sequence[int],
    shapes: Sequence[tuple[int, ...]],
    sparsity: float,
    allocation: Allocation,
) -> list[int] | None:
    """How many entries of every layer become zero; None where one ranking decides."""
    shares = allocation.sparsities(shapes, sparsity)
    if shares is None:
        return None
    exact = [share * number for share, number in zip(shares, entries, strict=True)]
    counts = [math.floor(number + 1e-9) for number in exact]
    # What rounding down left over goes to the layers that lost most by it.
    order = sorted(range(len(entries)), key=lambda at: counts[at] - exact[at])
    for at in order[: max(zeros_wanted(sparsity, sum(entries)) - sum(counts), 0)]:
        counts[at] += 1
    return counts
