"""Criteria of whole blocks: which layers a model can do without."""

from __future__ import annotations

from secateur.depth.angular import Angular
from secateur.depth.base import DEPTH_CRITERIA, DepthCriterion, Passing, as_depth
from secateur.depth.deepest import Deepest
from secateur.depth.influence import BlockInfluence
from secateur.depth.summed import Summed

__all__ = [
    "DEPTH_CRITERIA",
    "Angular",
    "BlockInfluence",
    "Deepest",
    "DepthCriterion",
    "Passing",
    "Summed",
    "as_depth",
]
