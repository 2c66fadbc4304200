"""Any criterion of weights as one of blocks: the score of all of a block's units together."""

from __future__ import annotations

import numpy as np

from secateur.criteria import Criterion, Scorer
from secateur.depth.base import DepthCriterion, Passing

__all__ = ["Summed"]


class Summed(DepthCriterion):
    """What a criterion adds up for units, added up for all units that only one block has.

    With ``taylor`` that is the change of the loss, to first order, when the block's heads and
    inner features all become zero.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.criterion.name

    @property
    def needs_data(self) -> bool:  # type: ignore[override]
        return self.criterion.needs_data

    @property
    def spec(self) -> str:
        return self.criterion.spec

    def scores(self, passing: Passing) -> np.ndarray:
        reading, graph = passing.reading, passing.graph
        units = []
        for block in passing.blocks:
            own = [
                group.classes
                for group in graph.groups
                if all(member.name.startswith(f"{block.path}.") for member in group.members)
            ]
            units.append(np.concatenate(own) if own else np.zeros(0, dtype=np.int64))
        scorer = Scorer(
            passing.model, self.criterion, reading.data, reading.loss, reading.seed,
            reading.progress, reading.inputs,
        )  # fmt: skip
        found = scorer.units(graph, units)
        empty = np.array([not len(unit) for unit in units])
        return np.where(found.judged & ~empty, found.values, np.inf)
