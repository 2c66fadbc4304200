"""Choices with which attention loses whole heads, and not part of every one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from secateur.graph.graph import Graph
from secateur.graph.roles import head_splits
from secateur.graph.trace import Trace

__all__ = ["whole_heads"]


def whole_heads(model: nn.Module, recorded: Trace, ignore: Mapping[str, str]) -> dict[int, int]:
    """For every view that cuts features into heads, how far outward the heads lie.

    Parameters
    ----------
    model : nn.Module
    recorded : Trace
    ignore : mapping
        Tensors that stay whole, and why.

    Returns
    -------
    dict of int to int
        For ``Graph(split_choice=...)``.
    """
    graph = Graph(model, recorded, ignore=dict(ignore))
    cuts = {node: split.choices for node, split in graph.propagation.splits.items()}
    found: dict[int, int] = {}
    for step in range(1, max(cuts.values(), default=1)):
        tried = {node: step for node, count in cuts.items() if count > step and node not in found}
        outward = Graph(model, recorded, split_choice=found | tried, ignore=dict(ignore))
        splits = head_splits(outward)
        found |= {node: choice for node, choice in splits.items() if node in tried and choice}
    return found
