"""From scores of units and a sparsity to masks, exactly so many zeros."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from secateur.allocation import Allocation
from secateur.errors import BudgetError
from secateur.sparse.threshold import Cut, Ranked, find_cut, ordered
from secateur.sparse.tiles import Tiling

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
    ) -> None:
        self.name, self.tiling, self.min_keep = name, tiling, min(min_keep, tiling.count)
        self._score = score
        sizes = tiling.sizes()
        self.each = math.prod(tiling.tile)
        self.sizes = None if bool((sizes == self.each).all()) else sizes
        self.entries = math.prod(tiling.shape)
        self.gone: Tensor | None = None
        self.already = 0
        if zeros is not None and bool(zeros.any()):
            self.gone = zeros == sizes
            partly = torch.where(self.gone, 0, zeros)
            self.already = int(partly.sum())
            if self.already:
                self.sizes = sizes - partly

    def scores(self) -> Tensor:
        """One score per unit, ``[units]``; infinite for those that stay whatever comes."""
        scores = self._score().detach().cpu().float().flatten().clone()
        if self.gone is not None:
            scores[self.gone.flatten()] = -math.inf
        if self.min_keep:
            least = scores.topk(self.min_keep).values[-1]
            above, equal = scores > least, (scores == least).nonzero()[:, 0]
            # Of equal scores the lowest index goes first, so the last ones stay.
            scores[equal[len(equal) - self.min_keep + int(above.sum()) :]] = math.inf
            scores[above] = math.inf
        return scores

    def plain(self) -> Tensor:
        """The scores without a floor, ``[*grid]``; what is masked already goes first."""
        scores = self._score().detach().cpu().float()
        return scores if self.gone is None else scores.masked_fill(self.gone, -math.inf)

    def spare(self) -> int:
        """Entries that can be zero at all."""
        if self.sizes is None:
            return (self.tiling.count - self.min_keep) * self.each
        return int(self.sizes.flatten()[self.scores() != math.inf].sum()) + self.already

    def removed(self, cut: Cut, equal: int) -> tuple[Tensor, int]:
        """Units that a cut removes, and how many entries go among those that equal it."""
        keys = ordered(self.scores())
        gone = keys < cut.key
        level = np.flatnonzero(keys == cut.key)
        taken = 0
        if equal > 0 and len(level):
            sizes = np.full(len(level), self.each)
            if self.sizes is not None:
                sizes = self.sizes.flatten().numpy()[level]
            sums = np.cumsum(sizes)
            count = min(int(np.searchsorted(sums, equal)) + 1, len(level))
            gone[level[:count]] = True
            taken = int(sums[count - 1])
        return torch.from_numpy(gone).reshape(self.tiling.grid), taken


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
    spare = sum(layer.spare() for layer in layers)
    if zeros > spare:
        entries = sum(layer.entries for layer in layers)
        raise BudgetError(
            f"the sparsity {zeros / entries:.4f} cannot be met: at most {spare / entries:.4f} is "
            "left when every layer keeps its floor (min_keep)"
        )
    zeros -= sum(layer.already for layer in layers)
    if zeros <= 0:
        return {layer.name: torch.zeros(layer.tiling.grid, dtype=torch.bool) for layer in layers}

    def ranked() -> Iterator[Ranked]:
        for layer in layers:
            yield layer.scores(), layer.sizes

    each = {layer.each for layer in layers}
    if len(each) > 1:
        cut = find_cut(lambda: _with_sizes(layers), zeros, 1)
    else:
        cut = find_cut(ranked, zeros, each.pop())
    left, removed = cut.equal, {}
    for layer in layers:
        removed[layer.name], taken = layer.removed(cut, left)
        left -= taken
    return removed


def _with_sizes(layers: Sequence[Layer]) -> Iterator[Ranked]:
    for layer in layers:
        sizes = layer.tiling.sizes() if layer.sizes is None else layer.sizes
        yield layer.scores(), sizes


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
        if count > layer.spare():
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
