"""LAMP: magnitude relative to what would be left of the layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from secateur.allocation.base import ALLOCATIONS, Allocation
from secateur.allocation.groups import GroupScores

__all__ = ["LAMP", "lamp"]


@ALLOCATIONS.register("lamp")
class LAMP(Allocation):
    """One ranking over all layers, of scores relative to what is left of their own layer.

    Lee et al. 2021 (arXiv:2010.07611). With a layer's weights in ascending order of magnitude,
    weight u scores w_u² / Σ_{v ≥ u} w_v², and the scores rank globally. The largest of a layer
    scores exactly 1, so no layer is emptied before all are down to one unit; the order within a
    layer is that of its scores; the scale of a layer does not matter. The paper takes single
    weights under ``magnitude``; here w² is the square of any criterion's score of a unit.

    Examples
    --------
    >>> [round(float(score), 4) for score in lamp(np.array([1.0, 2.0, 3.0, 4.0]) ** 2)]
    [0.0333, 0.1379, 0.36, 1.0]
    """

    name = "lamp"

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        largest = np.abs(scores).max(initial=0.0) or 1.0
        return lamp(np.square(np.maximum(scores / largest, 0.0)))

    def sparsities(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float] | None:
        return None

    def ranked(self, scores: Tensor, squared: bool) -> Tensor:
        flat = scores.detach().double().flatten().clamp(min=0).cpu()
        order = flat.argsort(stable=True)
        largest = float(flat.max()) or 1.0
        energy = (flat[order] / largest).numpy()
        result = torch.empty_like(flat)
        result[order] = torch.from_numpy(lamp(energy if squared else np.square(energy)))
        return result.float().reshape(scores.shape)


def lamp(squares: np.ndarray) -> np.ndarray:
    """Every square over the sum of itself and all that follow; squares ascend."""
    left = np.cumsum(squares[::-1])[::-1]
    return np.divide(squares, left, out=np.zeros_like(left), where=left > 0)
