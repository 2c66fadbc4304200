"""From what products read to the classes that do nothing: dead code, found on indices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from torch import Tensor, nn

from secateur.graph.graph import Graph
from secateur.graph.lanes import Lane
from secateur.graph.trace import Node, named_state
from secateur.idle.evidence import Evidence, gather
from secateur.inputs import Inputs

__all__ = ["Idle", "find_idle"]


@dataclasses.dataclass
class _Factor:
    """One side of a product: which of its entries are not zero, and what they belong to.

    Attributes
    ----------
    classes : ndarray
        Of the dimension that is summed over, in the shape of its lane.
    used : ndarray of bool
        Either in the lane's shape, or in the tensor's, for weights.
    others : list of (Lane, int, ndarray)
        A weight's other dimensions: what has gone there reads nothing.
    """

    classes: np.ndarray
    used: np.ndarray
    lane: Lane | None = None
    dim: int = 0
    others: list[tuple[Lane, int, np.ndarray]] = dataclasses.field(default_factory=list)

    def touched(self, dead: np.ndarray) -> np.ndarray:
        """Of which classes anything that is not dead reads a number other than zero."""
        used = self.used
        for lane, dim, classes in self.others:
            used = used & _across(~dead[classes], lane, dim, used.shape)
        if self.lane is not None:
            used = _along(used, self.lane, self.dim)
        result = np.zeros(len(dead), dtype=bool)
        result[self.classes[used]] = True
        return result


@dataclasses.dataclass
class Idle:
    """Classes that can go without changing any output, and why others cannot.

    Attributes
    ----------
    empty : ndarray of bool, shape [classes]
        Whose filters hold nothing but zeros, or all that reads them.
    mixed : dict
        Class -> the operation to which a zero is not nothing.
    """

    readers: list[list[_Factor]]
    empty: np.ndarray
    mixed: dict[int, str]

    def among(self, candidates: np.ndarray) -> np.ndarray:
        """The candidates that do nothing, if no other class goes: bool of shape [classes].

        All are taken for dead at first. What a living index reads lives, until nothing changes;
        so two units that only read each other are found, too.
        """
        dead = candidates.copy()
        dead[list(self.mixed)] = False
        while True:
            before = int(dead.sum())
            for factors in reversed(self.readers):
                touched = np.ones(len(dead), dtype=bool)
                for factor in factors:
                    touched &= factor.touched(dead)
                dead &= ~touched
            if int(dead.sum()) == before:
                return dead


def find_idle(model: nn.Module, inputs: Inputs, graph: Graph) -> Idle:
    """Watch a model run, and find what of it does nothing.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : Inputs
    graph : Graph
    """
    evidence = gather(model, inputs, graph)
    _add_training_only(model, graph, evidence)
    p = graph.propagation
    stuck = _stuck(graph, evidence)
    readers: list[list[_Factor]] = []
    mixed: dict[int, str] = {}
    for node in (*graph.trace.nodes, *graph.trace.training_only):
        for places in _summed(graph, node):
            factors = [
                factor
                for index, dim in places
                if (factor := _factor(graph, evidence, stuck, node, index, dim)) is not None
            ]
            if factors:
                readers.append(factors)
        reduction = p.reductions.get(node.index)
        if reduction is not None and not reduction.exact_with_zeros:
            name = node.op.removeprefix("aten::")
            what = f"{name} in {node.module}" if node.module else name
            for _, _, lane in reduction.lanes:
                if lane.ids is not None:
                    for label in np.unique(graph.classes_of(lane)).tolist():
                        mixed.setdefault(label, what)
    return Idle(readers, _empty(graph, evidence), mixed)


def _summed(graph: Graph, node: Node) -> Iterator[list[tuple[int, int]]]:
    """The sums of products that an operation is, each as the places of its factors."""
    p = graph.propagation
    yield from p.contractions.get(node.index, ())
    reduction = p.reductions.get(node.index)
    if reduction is not None and reduction.exact_with_zeros:
        if len({index for index, _, _ in reduction.lanes}) == 1:
            # One tensor, summed along several of its dimensions.
            yield from ([(index, dim)] for index, dim, _ in reduction.lanes)
        else:
            yield [(index, dim) for index, dim, _ in reduction.lanes]


def _factor(
    graph: Graph, evidence: Evidence, stuck: np.ndarray, node: Node, index: int, dim: int
) -> _Factor | None:
    layout = graph.propagation.layout(index)
    lane = layout[dim]
    if lane is None or lane.ids is None:
        return None
    classes = graph.classes_of(lane)
    weight = evidence.static.get((node.index, index))
    if weight is None:
        # A pass can miss what moves; a class that weights keep from moving it cannot.
        used = evidence.used.get((node.index, index, dim), np.ones(classes.shape, dtype=bool))
        return _Factor(classes, used | ~stuck[classes])
    others = [
        (other, at, graph.classes_of(other))
        for at, other in enumerate(layout)
        if other is not None and other.ids is not None and at != dim
    ]
    needed = {at for held, at, _ in [*others, (lane, dim, classes)] for at in (at, *held.rows)}
    return _Factor(classes, _nonzero(weight, needed), lane, dim, others)


def _nonzero(weight: Tensor, needed: set[int]) -> np.ndarray:
    """Where a weight is not zero, at once for all positions of a kernel."""
    flags = weight != 0
    rest = [at for at in range(flags.dim()) if at not in needed]
    return (flags.amax(rest, keepdim=True) if rest else flags).cpu().numpy()


def _along(flags: np.ndarray, lane: Lane, dim: int) -> np.ndarray:
    """Whether a flag is set anywhere at each index of a lane, in the lane's shape."""
    axes = [*lane.rows, dim]
    others = tuple(at for at in range(flags.ndim) if at not in axes)
    found = np.asarray(flags.any(axis=others)) if others else flags
    left = sorted(axes)
    return found.transpose([left.index(at) for at in axes])


def _across(flags: np.ndarray, lane: Lane, dim: int, shape: tuple[int, ...]) -> np.ndarray:
    """Flags of a lane's indices, to be broadcast over the tensor that it is a dimension of."""
    axes = [*lane.rows, dim]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    return flags.transpose(order).reshape(
        [shape[at] if at in axes else 1 for at in range(len(shape))]
    )


def _add_training_only(model: nn.Module, graph: Graph, evidence: Evidence) -> None:
    """What only training runs reads its weights as they are, and of the rest anything."""
    state = named_state(model)
    for node in graph.trace.training_only:
        for places in _summed(graph, node):
            for index, _ in places:
                weight = _turned(graph, state, index)
                if weight is not None:
                    evidence.static[node.index, index] = weight


def _turned(graph: Graph, state: dict[str, Tensor], index: int) -> Tensor | None:
    """A parameter as an operation read it, in the order of dimensions there."""
    p = graph.propagation
    root = p.roots.get(index)
    if root is None or p.value(root).name not in state:
        return None
    own = p.layout(root)
    order = [at for lane in p.layout(index) for at in range(len(own)) if own[at] is lane]
    if sorted(order) != list(range(len(own))):
        return None
    return state[p.value(root).name].detach().permute(order)


def _stuck(graph: Graph, evidence: Evidence) -> np.ndarray:
    """Classes that some product never moves, or that some scale multiplies by zero."""
    found = np.zeros(graph.n_classes, dtype=bool)
    for (index, dim), flags in evidence.stuck.items():
        lane = graph.propagation.layout(index)[dim]
        assert lane is not None
        found[graph.classes_of(lane)[flags]] = True
    return found


def _empty(graph: Graph, evidence: Evidence) -> np.ndarray:
    """Classes that only zeros make, or that only zeros read."""
    sides = {
        reads: (np.zeros(graph.n_classes, dtype=bool), np.zeros(graph.n_classes, dtype=bool))
        for reads in (False, True)
    }
    for (node, index), weight in evidence.static.items():
        factors = graph.propagation.contractions.get(node, ())
        summed = {dim for places in factors for value, dim in places if value == index}
        for dim, lane in enumerate(graph.propagation.layout(index)):
            if lane is None or lane.ids is None or weight.dim() < 2:
                continue
            classes = graph.classes_of(lane)
            met, held = sides[dim in summed]
            met[classes] = True
            held[classes[_along(_nonzero(weight, {*lane.rows, dim}), lane, dim)]] = True
    empty = np.zeros(graph.n_classes, dtype=bool)
    for met, held in sides.values():
        empty |= met & ~held
    return empty
