"""Which coupled groups are alike: the operations that they pass through, whatever their sizes."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from secateur.graph.graph import Graph
from secateur.graph.trace import Node

__all__ = ["kinds"]

ROUNDS = 3


def kinds(graph: Graph) -> list[str]:
    """Return a signature of every group's structure: equal for isomorphic groups.

    The operations that make, carry or read a group form a graph, each labelled with its name and
    with the places of its tensors where the group's dimension stands. Weisfeiler-Lehman
    refinement lets every label take in those around it; the signature is the multiset of labels.
    Widths, kernel sizes and strides are no part of it.

    Parameters
    ----------
    graph : Graph

    Returns
    -------
    list of str
        One for each of ``graph.groups``.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from secateur.graph import trace
    >>> relu, tanh = nn.ReLU(), nn.Tanh()
    >>> net = nn.Sequential(nn.Linear(4, 8), relu, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5),
    ...                     tanh, nn.Linear(5, 2))
    >>> first, second, third = kinds(trace(net, torch.ones(1, 4)))
    >>> first == second, second == third
    (True, False)
    """
    nodes = graph.trace.essential()
    passes = _passes(graph, nodes)
    return [_signature(nodes, places) for places in passes]


Places = dict[int, dict[int, list[str]]]
"""Position of a node -> value -> where in the node the group's dimension stands."""


def _passes(graph: Graph, nodes: list[Node]) -> list[Places]:
    """For every group, the nodes that it passes through, and where."""
    group_of = np.full(graph.n_classes, -1, dtype=np.int64)
    for index, group in enumerate(graph.groups):
        group_of[group.classes] = index
    known: dict[int, list[tuple[int, int]]] = {}

    def carried(value: int) -> list[tuple[int, int]]:
        """Groups that a value carries, each with the dimension."""
        if value not in known:
            found = []
            for dim, lane in enumerate(graph.propagation.layout(value)):
                if lane is not None and lane.ids is not None:
                    owners = np.unique(group_of[graph.classes_of(lane)])
                    found += [(int(owner), dim) for owner in owners if owner >= 0]
            known[value] = found
        return known[value]

    passes: list[Places] = [defaultdict(lambda: defaultdict(list)) for _ in graph.groups]
    for position, node in enumerate(nodes):
        for side, values in (("in", node.inputs), ("out", node.outputs)):
            for slot, value in enumerate(values):
                for owner, dim in carried(value):
                    passes[owner][position][value].append(f"{side}{slot}.{dim}")
    return passes


def _signature(nodes: list[Node], places: Places) -> str:
    """The refined labels of a group's nodes, order aside."""
    labels: dict[int, str] = {}
    makers: dict[int, list[int]] = defaultdict(list)
    for position, values in places.items():
        spots = sorted(spot for found in values.values() for spot in found)
        labels[position] = _digest(nodes[position].op, *spots)
        for value, found in values.items():
            if any(spot.startswith("out") for spot in found):
                makers[value].append(position)
    before: dict[int, set[int]] = {
        at: {maker for value in values for maker in makers[value] if maker < at}
        for at, values in places.items()
    }
    after: dict[int, list[int]] = defaultdict(list)
    for position, sources in before.items():
        for source in sources:
            after[source].append(position)
    for _ in range(ROUNDS):
        labels = {
            at: _digest(
                labels[at],
                "from", *sorted(labels[source] for source in before[at]),
                "to", *sorted(labels[target] for target in after[at]),
            )
            for at in places
        }  # fmt: skip
    return _digest(*sorted(labels.values()))


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
