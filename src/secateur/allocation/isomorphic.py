"""Isomorphic: units compete only with those of groups of the same structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.allocation.base import ALLOCATIONS, Allocation
from secateur.allocation.groups import GroupScores

__all__ = ["Isomorphic"]


@ALLOCATIONS.register("isomorphic")
class Isomorphic(Allocation):
    """One ranking for every set of groups of the same structure; every set loses the same share.

    Fang et al. 2024 (arXiv:2407.04616): scores of groups that pass through different operations
    (attention heads and the features between two linear layers, say) follow different
    distributions and are not compared; within a set they rank as they are. Groups are of one set
    when the operations that make, carry and read them form the same graph, whatever their widths.

    Examples
    --------
    >>> inner = [GroupScores(name, np.array(scores), kind="inner")
    ...          for name, scores in (("a", [1.0, 2.0]), ("b", [3.0, 4.0]))]
    >>> stream = GroupScores("c", np.array([90.0, 80.0]), kind="stream")
    >>> Isomorphic().order([*inner, stream])
    [(0, 0), (2, 1), (0, 1), (1, 0), (2, 0), (1, 1)]
    """

    name = "isomorphic"
    by_kind = True

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return scores

    def order(self, groups: Sequence[GroupScores]) -> list[tuple[int, int]]:
        sets: dict[str, list[int]] = {}
        for index, group in enumerate(groups):
            sets.setdefault(group.kind, []).append(index)
        placed: list[tuple[float, int, int, int, int]] = []
        for members in sets.values():
            ranked = super().order([groups[index] for index in members])
            found = (groups[index].weights for index in members)
            weights = [None if weight is None else np.asarray(weight) for weight in found]
            each = np.array([
                1.0 if (weight := weights[owner]) is None else float(weight[unit])
                for owner, unit in ranked
            ])  # fmt: skip
            # The middle of the share of the set that is gone once this unit is.
            shares = (np.cumsum(each) - each / 2) / max(each.sum(), 1e-300)
            placed += [
                (share, members[0], place, members[owner], unit)
                for place, (share, (owner, unit)) in enumerate(
                    zip(shares.tolist(), ranked, strict=True)
                )
            ]
        return [(owner, unit) for *_, owner, unit in sorted(placed)]
