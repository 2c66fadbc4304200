"""N:M as a granularity: N of every M consecutive inputs stay."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from secateur.budget import check_budget
from secateur.errors import BudgetError
from secateur.layerwise import Amount
from secateur.sparsity.base import Chosen, SparseGranularity, Task
from secateur.sparsity.nm import nm_mask
from secateur.sparsity.tiles import Tiling
from secateur.sparsity.transposable import transposable_mask
from secateur.weights import Weight

__all__ = ["SemiStructured", "Short"]

Short = Literal["pad", "skip"]


@dataclasses.dataclass(frozen=True)
class SemiStructured(SparseGranularity):
    """N of every M inputs in a row stay, at a fixed output and kernel position.

    Attributes
    ----------
    sizes : tuple of int
        N and M.
    short : {"pad", "skip"}
        What becomes of a weight that M does not divide: its last runs keep what a run of zeros
        appended to them would leave, or the whole weight is skipped.
    transposable : bool
        Whether N of every M outputs in a row stay too.
    """

    short: Short = "pad"
    transposable: bool = False

    @property
    def keep(self) -> int:
        return self.sizes[0]

    @property
    def of(self) -> int:
        return self.sizes[1]

    def budget(self, given: object) -> dict[str, float]:
        sparsity = 1 - self.keep / self.of
        if given is None:
            return {"sparsity": sparsity}
        checked = check_budget(given, sparse=True)
        if abs(checked["sparsity"] - sparsity) > 1e-3:
            raise BudgetError(
                f"budget sparsity={checked['sparsity']:g} contradicts granularity {self.name!r}, "
                f"which makes {sparsity:g} of the weights zero; leave the budget out, or choose "
                "another N:M"
            )
        return checked

    def towards(self, sparsity: float) -> tuple[SemiStructured, float]:
        """More than N of every M stay on the way, M − 1 at most: 3:4 comes before 2:4."""
        wanted = math.ceil(self.of * (1 - sparsity) - 1e-9)
        keep = max(self.keep, min(wanted, self.of - 1))
        if keep == self.keep:
            return self, 1 - keep / self.of
        name = self.name.replace(f"{self.keep}:{self.of}", f"{keep}:{self.of}", 1)
        return dataclasses.replace(self, name=name, sizes=(keep, self.of)), 1 - keep / self.of

    def misfit(self, weight: Weight) -> str | None:
        outputs, inputs = weight.canonical_shape[:2]
        runs = {"inputs": inputs, "outputs": outputs} if self.transposable else {"inputs": inputs}
        for what, size in runs.items():
            if self.short == "skip" and size % self.of:
                return f"granularity {self.name!r} needs a multiple of {self.of}, not {size} {what}"
        if max(runs.values()) <= self.keep:
            return f"granularity {self.name!r} would keep all of its {inputs} inputs"
        return None

    def amount(self, kept: Tensor) -> Amount | None:
        return None if self.transposable else Amount(runs=(self.keep, self.of))

    def tiling(self, weight: Weight) -> Tiling:
        return Tiling(tuple(weight.canonical_shape), (1,) * len(weight.shape))

    def choose(self, task: Task) -> Chosen:
        scorer = task.scorer([(weight, self.tiling(weight)) for weight in task.weights])
        chosen = Chosen()
        choice = transposable_mask if self.transposable else nm_mask
        for weight in task.weights:
            scores, held = scorer.scores(weight), task.masks.get(weight.name)
            if held is not None:
                scores = _masked_last(scores, weight.canonical(held), self.of)
            chosen.add(weight, choice(scores, self.keep, self.of).cpu())
        return chosen


def _masked_last(scores: Tensor, held: Tensor, of: int) -> Tensor:
    """Scores under which what is masked stays only where nothing else can.

    Examples
    --------
    >>> _masked_last(torch.tensor([[1.0, 3.0]]), torch.tensor([[True, False]]), 2)
    tensor([[ 1., -8.]])
    """
    low, high = scores.aminmax()
    # Below any sum of differences in a tile, so that no other gain makes up for it.
    below = low - of * of * (high - low).clamp_min(torch.finfo(scores.dtype).tiny) - 1
    return torch.where(held.to(scores.device), scores, below)
