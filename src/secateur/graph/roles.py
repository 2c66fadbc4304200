"""What coupled groups are to a model: heads, their width, FFN width, the residual stream.

Found in the operations that ran, never by the names of classes: attention by its products and
softmax, the residual stream by sums of a value with what was computed from it, and an FFN by
reading that stream and writing to it.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from secateur.graph.attention import Place, attending
from secateur.graph.coupling import Group
from secateur.graph.graph import Graph
from secateur.graph.residual import PRODUCTS, Ancestry, residual_sums

__all__ = ["ROLES", "Role", "head_splits", "roles"]

Role = Literal["head", "head_dim", "ffn", "hidden", "other"]
ROLES: tuple[Role, ...] = ("head", "head_dim", "ffn", "hidden")


def roles(graph: Graph) -> list[Role]:
    """Say what each of ``graph.groups`` is.

    Returns
    -------
    list of str
        ``"head"``: one class a head (or group of heads that share keys and values);
        ``"head_dim"``: inside every head; ``"hidden"``: the residual stream; ``"ffn"``: made by
        weights that read that stream and read by weights that write to it; else ``"other"``.

    Examples
    --------
    >>> import torch
    >>> from secateur.graph import trace
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    >>> roles(trace(layer, torch.zeros(1, 3, 8)))
    ['ffn']
    """
    found = attending(graph)
    heads = _classes(graph, found.heads)
    widths = _classes(graph, found.widths) & ~heads
    streams = _Streams(graph)
    hidden = streams.classes()
    return [_role(streams, group, heads, widths, hidden) for group in graph.groups]


def _role(
    streams: _Streams, group: Group, heads: np.ndarray, widths: np.ndarray, hidden: np.ndarray
) -> Role:
    classes = group.classes
    if heads[classes].any():
        return "head"
    if widths[classes].any():
        return "head_dim"
    if hidden[classes].any():
        return "hidden"
    return "ffn" if streams.branch(group) else "other"


def head_splits(graph: Graph) -> dict[int, int]:
    """Choices for views that cut features into heads, with which whole heads go.

    Parameters
    ----------
    graph : Graph
        With any choices.

    Returns
    -------
    dict of int to int
        Node -> steps outward, as `Graph` takes them.
    """
    heads = _classes(graph, attending(graph).heads)
    return {
        node: split.choice
        for node, split in graph.propagation.splits.items()
        if heads[graph.coupling.labels[split.ids]].any()
    }


def _classes(graph: Graph, places: list[Place]) -> np.ndarray:
    """Which classes stand in any of some dimensions, as a mask."""
    met = np.zeros(graph.n_classes, dtype=bool)
    for value, dim in places:
        lane = graph.propagation.layout(value)[dim]
        if lane is not None and lane.ids is not None:
            met[graph.coupling.labels[lane.ids]] = True
    return met


class _Streams:
    """Which products read what passes by a residual sum, and which write to that sum.

    Asked of values, not of classes: where the stream is the model's input, it has none.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ancestry = Ancestry(graph.trace)
        self.sums = residual_sums(graph.trace, self.ancestry)
        self._given: dict[str, list[int]] = {}
        self._made: dict[str, list[int]] = {}
        p = graph.propagation
        for node in graph.trace.nodes:
            if node.op in PRODUCTS:
                for index in node.inputs:
                    root = p.roots.get(index)
                    if root is not None and p.value(root).name:
                        name = p.value(root).name
                        others = [each for each in node.inputs if not p.static[each]]
                        self._given.setdefault(name, []).extend(others)
                        self._made.setdefault(name, []).extend(node.outputs)

    def classes(self) -> np.ndarray:
        """Classes along the sums, as a mask."""
        values = [node.outputs[0] for node in self.sums]
        shapes = self.graph.trace.values
        places = [(value, dim) for value in values for dim in range(len(shapes[value].shape))]
        return _classes(self.graph, places)

    def branch(self, group: Group) -> bool:
        """Whether plain matrices make the group of the stream, and write to it from the group."""
        bound = Counter(member.name for member in self.graph.members)
        shapes = {value.name: value.shape for value in self.graph.trace.values}
        sides: dict[str, list[int]] = {"producer": [], "consumer": []}
        for member in group.members:
            kernel = shapes[member.name][2:]
            if all(size == 1 for size in kernel) or bound[member.name] == 3:
                held = self._given if member.role == "producer" else self._made
                sides.get(member.role, []).extend(held.get(member.name, ()))
        carried = self.ancestry.carried
        for node in self.sums:
            a, b = node.inputs
            for branch, stream in ((a, b), (b, a)):
                writes = any(carried(branch, made) for made in sides["consumer"])
                if writes and any(carried(given, stream) for given in sides["producer"]):
                    return True
        return False
