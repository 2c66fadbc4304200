"""Global: one ranking over all groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from secateur.allocation.base import ALLOCATIONS, Allocation
from secateur.allocation.groups import GroupScores
from secateur.errors import InputError, suggestion

__all__ = ["Global", "Normalize"]

Normalize = Literal["auto", "mean", "raw"]


@ALLOCATIONS.register("global")
class Global(Allocation):
    """One ranking over all groups, the default: groups that matter little lose more.

    Blalock et al. 2020 (arXiv:2003.03033) compare it with layerwise pruning under this name.

    Parameters
    ----------
    normalize : {"auto", "mean", "raw"}, default "auto"
        ``"mean"`` divides the scores of a group by their mean absolute value, so that a group of
        large weights does not outrank one of small weights for its scale alone; a group of zeros
        counts as constant, all ones. ``"raw"`` ranks the scores as they are. ``"auto"`` does so for
        criteria whose scores share one unit of measure by definition (``bn_scale``, ``taylor``),
        and normalises all others.

    Examples
    --------
    >>> wide = GroupScores("wide", np.array([10.0, 30.0]))
    >>> small = GroupScores("small", np.array([0.9, 1.1]))
    >>> Global().order([wide, small])
    [(0, 0), (1, 0), (1, 1), (0, 1)]
    >>> Global(normalize="raw").order([wide, small])
    [(1, 0), (1, 1), (0, 0), (0, 1)]
    """

    name = "global"

    def __init__(self, normalize: Normalize = "auto") -> None:
        if normalize not in get_args(Normalize):
            raise InputError(
                f"allocation 'global': unknown normalize {normalize!r}"
                + suggestion(str(normalize), get_args(Normalize))
            )
        self.normalize = normalize

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        if self.normalize == "raw" or (self.normalize == "auto" and group.comparable):
            return scores
        largest = np.abs(scores).max(initial=0.0)
        if largest == 0:
            return np.ones_like(scores)
        # Dividing by the largest first keeps the mean of subnormal scores from vanishing.
        scaled = scores / largest
        return scaled / np.abs(scaled).mean()

    def sparsities(self, shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float] | None:
        return None
