"""Block influence: how far a block turns what passes through it."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from secateur.depth.base import DEPTH_CRITERIA, DepthCriterion, Passing
from secateur.depth.watching import watch
from secateur.inputs import Inputs

__all__ = ["BlockInfluence"]


@DEPTH_CRITERIA.register("block_influence")
class BlockInfluence(DepthCriterion):
    """One minus the mean cosine between what a block is given and what it returns.

    ShortGPT, Men et al. 2024 (arXiv:2403.03853). The mean is over all tokens (or places of an
    image) of the data; the cosine is over features. A block that changes nothing scores 0.
    """

    name = "block_influence"
    needs_data = True

    def scores(self, passing: Passing) -> np.ndarray:
        sums, counts = np.zeros(len(passing.blocks)), np.zeros(len(passing.blocks))
        features = [passing.features(block) for block in passing.blocks]

        def seen(index: int, given: Tensor, returned: Tensor) -> None:
            cosine = functional.cosine_similarity(
                given.float(), returned.float(), dim=features[index]
            )
            sums[index] += float(cosine.double().sum())
            counts[index] += cosine.numel()

        def done(inputs: Inputs) -> None:
            return None

        watch(passing, seen, done)
        return 1 - sums / np.maximum(counts, 1)
