"""The deepest blocks first: the baseline of depth pruning."""

from __future__ import annotations

import numpy as np

from secateur.depth.base import DEPTH_CRITERIA, DepthCriterion, Passing

__all__ = ["Deepest"]


@DEPTH_CRITERIA.register("deepest")
class Deepest(DepthCriterion):
    """From the end towards the start, the last block of every stack excepted.

    The baseline of Gromov et al. 2024 (arXiv:2403.17887): the last layer stays, for it shapes
    what the classifier reads.
    """

    name = "deepest"

    def scores(self, passing: Passing) -> np.ndarray:
        stacks = [block.stack for block in passing.blocks]
        scores = -np.arange(len(stacks), dtype=np.float64)
        for stack in set(stacks):
            scores[max(at for at, each in enumerate(stacks) if each == stack)] = np.inf
        return scores
