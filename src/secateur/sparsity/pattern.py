"""Pattern pruning: 3x3 kernels keep four entries in one of a few patterns."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import torch
from torch import Tensor

from secateur.budget import check_budget
from secateur.errors import BudgetError, InputError
from secateur.sparsity.base import Chosen, SparseGranularity, Task
from secateur.sparsity.nm import nm_mask
from secateur.sparsity.scoring import SparseScorer
from secateur.sparsity.select import (
    Layer,
    removed_globally,
    removed_per_layer,
    zeros_per_layer,
    zeros_wanted,
)
from secateur.sparsity.tiles import Tiling
from secateur.weights import Weight

__all__ = ["Pattern", "best_patterns", "frequent_patterns", "natural_patterns"]

KEPT, PLACES = 4, 9


@dataclasses.dataclass(frozen=True)
class Pattern(SparseGranularity):
    """Every 3x3 kernel keeps four entries in a pattern of a library; whole kernels go as well.

    The library holds the most frequent natural patterns of the model: the four highest entries
    of a kernel. Each kernel takes the pattern that retains most. Then whole kernels go, those
    that retain least on average, until the sparsity is met; 1x1 kernels can only go whole.

    Attributes
    ----------
    sizes : tuple of int
        Of the library.
    """

    at_once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.sizes[0] > math.comb(PLACES, KEPT):
            raise InputError(
                f"granularity {self.name!r}: there are only {math.comb(PLACES, KEPT)} patterns of "
                f"{KEPT} in {PLACES}"
            )

    def budget(self, given: object) -> dict[str, float]:
        # Without one, patterns alone decide and every kernel stays.
        return check_budget(given, sparse=True) if given else {}

    def misfit(self, weight: Weight) -> str | None:
        reason = super().misfit(weight)
        kernel = list(weight.canonical_shape[2:])
        if reason is None and kernel != [3, 3] and math.prod(kernel) != 1:
            size = "x".join(map(str, kernel))
            return f"granularity {self.name!r} is for 3x3 and 1x1 kernels, and these are {size}"
        return reason

    def choose(self, task: Task) -> Chosen:
        entries = [
            (weight, Tiling(tuple(weight.canonical_shape), (1,) * len(weight.shape)))
            for weight in task.weights
        ]
        scorer = task.scorer(entries)
        counts = torch.zeros(1 << PLACES, dtype=torch.int64)
        for weight in task.weights:
            if _patterned(weight):
                counts += natural_patterns(_kernels(scorer, weight))
        library = frequent_patterns(counts, self.sizes[0])
        removed = self._removed(task, scorer, library)
        chosen = Chosen()
        for weight in task.weights:
            stay = ~removed[weight.name].reshape(-1, 1)
            if _patterned(weight):
                stay = library[best_patterns(_kernels(scorer, weight), library)] & stay
            chosen.add(weight, stay.reshape(weight.canonical_shape))
        chosen.settings["patterns"] = [pattern.nonzero()[:, 0].tolist() for pattern in library]
        return chosen

    def _removed(self, task: Task, scorer: SparseScorer, library: Tensor) -> dict[str, Tensor]:
        """Kernels that go whole, of each weight."""

        def retained(weight: Weight) -> Tensor:
            kernels = _kernels(scorer, weight)
            if not _patterned(weight):
                return kernels
            masks = library[best_patterns(kernels, library)]
            return (kernels * masks).sum(dim=1, keepdim=True) / KEPT

        layers, fixed, sizes = [], [], []
        for weight in task.weights:
            # What a kernel still holds is what its removal makes zero.
            left = KEPT if _patterned(weight) else 1
            kernels = math.prod(weight.canonical_shape[:2])
            tiling = Tiling((kernels, left), (1, left))
            score = functools.partial(retained, weight)
            layers.append(Layer(weight.name, tiling, score, task.min_keep))
            fixed.append(weight.numel - kernels * left)
            sizes.append(weight.numel)
        if task.sparsity is None:
            return removed_globally(layers, 0)
        shapes = [weight.canonical_shape for weight in task.weights]
        each = zeros_per_layer(sizes, shapes, task.sparsity, task.allocation)
        if each is None:
            wanted = zeros_wanted(task.sparsity, sum(sizes))
            self._check("the weights", wanted, sum(fixed), sum(layer.spare() for layer in layers),
                        sum(sizes))  # fmt: skip
            return removed_globally(layers, wanted - sum(fixed))
        for layer, wanted, least, size in zip(layers, each, fixed, sizes, strict=True):
            self._check(layer.name, wanted, least, layer.spare(), size)
        going = [wanted - least for wanted, least in zip(each, fixed, strict=True)]
        return removed_per_layer(layers, going)

    def _check(self, what: str, wanted: int, least: int, spare: int, size: int) -> None:
        if wanted < least:
            raise BudgetError(
                f"the sparsity {wanted / size:.4f} is too low for granularity {self.name!r}: its "
                f"patterns alone make {least / size:.4f} of {what} zero"
            )
        if wanted > least + spare:
            raise BudgetError(
                f"the sparsity {wanted / size:.4f} cannot be met: at most "
                f"{(least + spare) / size:.4f} of {what} when every weight keeps its floor "
                "(min_keep)"
            )


def _patterned(weight: Weight) -> bool:
    return weight.canonical_shape[2:] == (3, 3)


def _kernels(scorer: SparseScorer, weight: Weight) -> Tensor:
    return scorer.scores(weight).reshape(-1, math.prod(weight.canonical_shape[2:])).cpu()


def natural_patterns(kernels: Tensor) -> Tensor:
    """How many kernels have which four highest entries.

    Parameters
    ----------
    kernels : Tensor, shape [kernels, 9]
        Scores. Of equal ones the lowest index is left out first; kernels without a score above
        zero have no pattern.

    Returns
    -------
    Tensor of int64, shape [512]
        By the number whose bits are the kept places.

    Examples
    --------
    >>> natural_patterns(torch.arange(18.0).reshape(2, 9)).nonzero().tolist()
    [[480]]
    """
    alive = kernels[(kernels != 0).any(dim=1)]
    bits = torch.tensor([1 << place for place in range(PLACES)])
    codes = (nm_mask(alive, KEPT, PLACES) * bits).sum(dim=1)
    return torch.bincount(codes, minlength=1 << PLACES)


def frequent_patterns(counts: Tensor, size: int) -> Tensor:
    """The most frequent patterns, ``[at most size, 9]`` of bool; of equals the lowest number.

    Examples
    --------
    >>> counts = torch.zeros(512, dtype=torch.int64)
    >>> counts[480], counts[15] = 3, 5
    >>> frequent_patterns(counts, 1).int()
    tensor([[1, 1, 1, 1, 0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    order = counts.argsort(descending=True, stable=True)[:size]
    codes = order[counts[order] > 0]
    if not len(codes):
        # A model of zeros: any pattern keeps as much.
        codes = torch.tensor([sum(1 << place for place in range(PLACES - KEPT, PLACES))])
    return (codes[:, None] >> torch.arange(PLACES) & 1).bool()


def best_patterns(kernels: Tensor, library: Tensor) -> Tensor:
    """Which pattern of the library retains most of every kernel, ``[kernels]``.

    Examples
    --------
    >>> library = torch.tensor([[True] * 4 + [False] * 5, [False] * 5 + [True] * 4])
    >>> best_patterns(torch.arange(9.0)[None], library)
    tensor([1])
    """
    return (kernels.double() @ library.double().T).argmax(dim=1)
