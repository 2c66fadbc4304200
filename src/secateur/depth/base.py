"""What a criterion of blocks is: it says which of a stack of layers go first."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from secateur import specs
from secateur.criteria import Criterion, as_criterion
from secateur.errors import InputError
from secateur.graph.blocks import Block
from secateur.graph.graph import Graph
from secateur.observing.reading import Reading
from secateur.registry import Registry
from secateur.specs import Spelled

__all__ = ["DEPTH_CRITERIA", "DepthCriterion", "Passing", "as_depth"]

DEPTH_CRITERIA: Registry[type[DepthCriterion]] = Registry("criterion of layers")


@dataclasses.dataclass(frozen=True)
class Passing:
    """A model, its blocks, and the data to judge them by.

    Attributes
    ----------
    model : nn.Module
    graph : Graph
    blocks : sequence of Block
        In the order in which they run.
    reading : Reading
    """

    model: nn.Module
    graph: Graph
    blocks: Sequence[Block]
    reading: Reading

    def features(self, block: Block) -> int:
        """The dimension of a block's input along which its features lie."""
        layout = self.graph.propagation.layout(block.given)
        bound = [
            dim for dim, lane in enumerate(layout) if lane is not None and lane.ids is not None
        ]
        return bound[-1] if bound else len(layout) - 1


class DepthCriterion(Spelled, ABC):
    """Base of every criterion of blocks: lower goes first.

    Attributes
    ----------
    name : str
    needs_data : bool
        Whether it needs batches.
    contiguous : bool
        Whether what goes is one run of neighbours; `run_scores` then judges runs.
    """

    needs_data: ClassVar[bool] = False
    contiguous: ClassVar[bool] = False

    @abstractmethod
    def scores(self, passing: Passing) -> np.ndarray:
        """One finite score per block; infinity for one that must stay.

        Returns
        -------
        ndarray of float64, shape [blocks]
        """

    def run_scores(self, passing: Passing) -> dict[tuple[int, int], float]:
        """``(first, count)`` of every run of neighbours of one stack -> its score.

        Raises
        ------
        NotImplementedError
            Where the criterion judges blocks one by one.
        """
        raise NotImplementedError


def as_depth(criterion: Any) -> DepthCriterion:
    """The criterion of blocks meant: by name, an object, or any criterion of weights, summed.

    Raises
    ------
    UnknownNameError, InputError

    Examples
    --------
    >>> as_depth("block_influence").name, as_depth("magnitude").spec
    ('block_influence', 'magnitude')
    """
    from secateur.depth.summed import Summed

    if isinstance(criterion, DepthCriterion):
        return criterion
    if isinstance(criterion, str) and criterion.partition(":")[0] in DEPTH_CRITERIA:
        return specs.build(DEPTH_CRITERIA, criterion)
    scorer = as_criterion(criterion)
    assert isinstance(scorer, Criterion)
    if scorer.updates:
        raise InputError(
            f"criterion {scorer.name!r} changes what survives of a layer, and cannot judge whole "
            "layers; take block_influence, angular, taylor or magnitude"
        )
    return Summed(scorer)


def first_tensor(value: Any) -> Tensor:
    """What passes through: a module's result, or the first of several.

    Raises
    ------
    InputError
    """
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        raise InputError("a block returned no tensor")
    return value
