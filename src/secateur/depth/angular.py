"""Angular distance across a run of blocks, at the last token."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from secateur.depth.base import DEPTH_CRITERIA, DepthCriterion, Passing
from secateur.depth.watching import watch
from secateur.inputs import Inputs

__all__ = ["Angular"]


@DEPTH_CRITERIA.register("angular")
class Angular(DepthCriterion):
    """The angle, over π, between what goes into a run of blocks and what comes out of it.

    Gromov et al. 2024 (arXiv:2403.17887). Taken at the last token of every sequence (the last
    one that an ``attention_mask`` lets through), and averaged over the data; for images, over
    all of their features. One run of neighbours goes, the one of least distance.
    """

    name = "angular"
    needs_data = True
    contiguous = True

    def scores(self, passing: Passing) -> np.ndarray:
        runs = self.run_scores(passing)
        return np.array([runs[index, 1] for index in range(len(passing.blocks))])

    def run_scores(self, passing: Passing) -> dict[tuple[int, int], float]:
        stacks: dict[str, list[int]] = defaultdict(list)
        for index, block in enumerate(passing.blocks):
            stacks[block.stack].append(index)
        sums: dict[tuple[int, int], float] = defaultdict(float)
        before: dict[int, Tensor] = {}
        after: dict[int, Tensor] = {}
        samples = 0

        def seen(index: int, given: Tensor, returned: Tensor) -> None:
            before[index], after[index] = given, returned

        def done(inputs: Inputs) -> None:
            nonlocal samples
            mask = inputs.kwargs.get("attention_mask")
            starts = {index: _last(value, mask) for index, value in before.items()}
            ends = {index: _last(value, mask) for index, value in after.items()}
            for stack in stacks.values():
                for at, first in enumerate(stack):
                    for last in stack[at:]:
                        cosine = functional.cosine_similarity(starts[first], ends[last], dim=1)
                        angle = torch.arccos(cosine.clamp(-1, 1)) / math.pi
                        sums[first, stack.index(last) - at + 1] += float(angle.sum())
            samples += len(next(iter(starts.values())))
            before.clear()
            after.clear()

        watch(passing, seen, done)
        return {run: total / max(samples, 1) for run, total in sums.items()}


def _last(values: Tensor, mask: object) -> Tensor:
    """Features at the last token of every sequence, ``[sequences, features]``."""
    values = values.double()
    if values.dim() != 3:
        return values.reshape(len(values), -1)
    if isinstance(mask, Tensor) and mask.shape == values.shape[:2]:
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (places * (mask != 0)).argmax(dim=1)
        return values[torch.arange(len(values), device=values.device), last.to(values.device)]
    return values[:, -1]
