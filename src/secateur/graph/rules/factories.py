"""Freshly made tensors: sizes that Python computes may follow, values that depend on them not."""

from __future__ import annotations

from secateur.graph.lanes import Lane, Layout
from secateur.graph.propagate import Propagation, rule
from secateur.graph.trace import Node


@rule(
    *(
        f"aten::{name}"
        for name in """
        empty zeros ones full empty_like zeros_like ones_like full_like new_empty new_zeros
        new_ones new_full empty_strided new_empty_strided
        """.split()
    )
)
def uniform(p: Propagation, node: Node) -> list[Layout]:
    """Every entry is the same, so any size will do: the lane binds to whatever it meets."""
    shape = p.shape(node.outputs[0])
    return [[Lane(size) if size > 1 else None for size in shape]]


@rule(
    *(
        f"aten::{name}"
        for name in """
        arange linspace logspace eye scalar_tensor rand randn randint randperm rand_like randn_like
        randint_like hann_window hamming_window tensor _tensor_constant normal uniform
        """.split()
    )
)
def particular(p: Propagation, node: Node) -> list[Layout]:
    """Every entry is its own, so no index can be left out."""
    return [[None] * len(p.shape(index)) for index in node.outputs]
