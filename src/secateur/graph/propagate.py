"""Carry identities through a recorded forward pass, operation by operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from secateur.graph.lanes import Ids, Lane, Layout, Ledger
from secateur.graph.trace import Node, Ref, Trace, Value

__all__ = ["RULES", "Propagation", "Reduction", "rule"]

Rule: TypeAlias = "Callable[[Propagation, Node], list[Layout]]"

RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register how operations (schema names without overload) carry identities."""

    def add(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"{op} has two rules")
            RULES[op] = function
        return function

    return add


@dataclasses.dataclass
class Reduction:
    """An operation that mixes the indices of a prunable dimension.

    Attributes
    ----------
    exact_with_zeros : bool
        Whether a zero contributes nothing (a sum), so that masking equals removing. Otherwise
        (a mean, a maximum, a softmax, a norm's statistics) removed indices must be left out.
    """

    lanes: list[tuple[int, int, Lane]]
    exact_with_zeros: bool


@dataclasses.dataclass
class Split:
    """A view that cut one dimension's identities along several; any one of them can shrink."""

    node: int
    ids: Ids
    choices: int
    choice: int = 0


class Propagation:
    """Identities of every dimension of every tensor of a trace.

    Parameters
    ----------
    trace : Trace
    split_choice : dict, optional
        For a node that splits a dimension, how many steps outward from the innermost varying
        part the prunable part lies: 0 prunes inside every row (narrower heads), 1 prunes whole
        rows (fewer heads). Others follow the rule's default.
    open_inputs, open_outputs : bool, default False
        Whether dimensions of the model's inputs and outputs may change.
    """

    def __init__(
        self,
        trace: Trace,
        split_choice: dict[int, int] | None = None,
        *,
        open_inputs: bool = False,
        open_outputs: bool = False,
    ) -> None:
        self.trace = trace
        self.open_outputs = open_outputs
        self.split_choice = split_choice or {}
        self.ledger = Ledger()
        self.layouts: list[Layout | None] = [None] * len(trace.values)
        self.static = [value.kind in ("state", "constant") for value in trace.values]
        self.roots: dict[int, int] = {}
        self.reductions: dict[int, Reduction] = {}
        self.contractions: dict[int, list[list[tuple[int, int]]]] = {}
        self.splits: dict[int, Split] = {}
        self.renumbered: list[tuple[str, Lane]] = []
        self.scales: dict[int, Lane] = {}
        self.unknown: dict[str, int] = {}
        self.producers: dict[str, set[int]] = {}
        self.uses: dict[int, int] = {}
        self._node: Node | None = None
        for index, value in enumerate(trace.values):
            if value.kind == "state":
                self.layouts[index] = [Lane(size) if size > 1 else None for size in value.shape]
                self.roots[index] = index
            elif value.kind == "input" and open_inputs and value.dtype.is_floating_point:
                self.layouts[index] = self._open(value.shape)

    def run(self) -> Propagation:
        for node in (*self.trace.nodes, *self.trace.training_only):
            self._node = node
            self._step(node)
        self._node = None
        for name, index in self.trace.outputs:
            for lane in self.layout(index):
                # Rows that lose other indices each cannot be told apart from outside.
                closed = not self.open_outputs or (lane is not None and lane.rows)
                if lane is not None and lane.ids is not None and closed:
                    self.ledger.protect(lane, f"it reaches the model's {name}")
        return self

    def _open(self, shape: tuple[int, ...]) -> Layout:
        """Lanes for an input: every dimension but the batch may turn out to be features."""
        first = 1 if len(shape) > 1 else 0
        return [
            Lane(size, self.ledger.fresh(size)) if dim >= first and size > 1 else None
            for dim, size in enumerate(shape)
        ]

    def _step(self, node: Node) -> None:
        function = RULES.get(node.op)
        for index in set(node.inputs):
            if self.trace.values[index].kind == "state":
                self.uses[index] = self.uses.get(index, 0) + 1
        if function is None:
            self.unknown[node.op] = self.unknown.get(node.op, 0) + 1
            outputs = self.give_up(node, f"there is no rule for {node.op}")
        else:
            outputs = function(self, node)
        static = bool(node.inputs) and all(self.static[index] for index in node.inputs)
        for index, layout in zip(node.outputs, outputs, strict=False):
            self.static[index] = self.static[index] if index in node.inputs else static
            if self.layouts[index] is None or not node.in_place:
                self.layouts[index] = layout

    # What rules ask ---------------------------------------------------------------------------

    def value(self, ref: Ref | int) -> Value:
        return self.trace.values[ref.index if isinstance(ref, Ref) else ref]

    def shape(self, ref: Ref | int) -> tuple[int, ...]:
        return self.value(ref).shape

    def layout(self, ref: Ref | int) -> Layout:
        """The lanes of a tensor; those of inputs and constants cannot change."""
        index = ref.index if isinstance(ref, Ref) else ref
        layout = self.layouts[index]
        if layout is None:
            layout = [None] * len(self.trace.values[index].shape)
            self.layouts[index] = layout
        return layout

    def aligned(self, ref: Ref | int, dim: int | None = None) -> Layout:
        """The lanes of a tensor, every one (or one of them) with a single row."""
        layout = self.layout(ref)
        return [
            self.ledger.aligned(lane) if lane is not None and dim in (None, at) else lane
            for at, lane in enumerate(layout)
        ]

    def why(self, what: str) -> str:
        """A reason for protecting, with the operation and the module it ran in."""
        assert self._node is not None
        name = self._node.op.removeprefix("aten::")
        place = f" in {self._node.module}" if self._node.module else ""
        return f"{what} ({name}{place})"

    def pin(self, layout: Layout, dims: Sequence[int], what: str) -> None:
        """Protect some dimensions of a tensor."""
        for dim in dims:
            self.ledger.protect(layout[dim], self.why(what))

    def give_up(self, node: Node, what: str) -> list[Layout]:
        """Protect everything that an operation reads; its results cannot change."""
        for index in node.inputs:
            layout = self.layout(index)
            self.pin(layout, range(len(layout)), what)
        return [[None] * len(self.shape(index)) for index in node.outputs]

    def mixes(self, lanes: list[tuple[int, int]], exact_with_zeros: bool) -> None:
        """Note that the running operation mixes these (value, dim) lanes."""
        assert self._node is not None
        found = []
        for index, dim in lanes:
            lane = self.layout(index)[dim]
            if lane is not None and lane.size > 1:
                found.append((index, dim, lane))
        if not found:
            return
        entry = self.reductions.setdefault(self._node.index, Reduction([], True))
        entry.lanes.extend(found)
        entry.exact_with_zeros = entry.exact_with_zeros and exact_with_zeros

    def contracts(self, *factors: tuple[int, int]) -> None:
        """Note that the running operation sums over products along these (value, dim)s.

        What any of the factors is zero in contributes nothing, so that nobody reads it there.
        """
        assert self._node is not None
        self.contractions.setdefault(self._node.index, []).append(list(factors))

    def broadcast(self, refs: Sequence[Ref | int], shape: Sequence[int]) -> Layout:
        """The lanes of an element-wise result: whatever meets in a dimension is tied."""
        rank = len(shape)
        sizes = dict(enumerate(shape))
        layout: Layout = []
        operands = []
        for ref in refs:
            own = self.shape(ref)
            lanes = self.layout(ref)
            shift = rank - len(own)
            operands.append(
                [(own[dim], shifted(lanes[dim], shift, own)) for dim in range(len(own))]
            )
        for dim in range(rank):
            meeting = []
            for operand in operands:
                at = dim - (rank - len(operand))
                if at >= 0 and operand[at][0] == shape[dim]:
                    meeting.append(operand[at][1])
            if shape[dim] == 1 or not meeting:
                layout.append(None)
            else:
                layout.append(
                    self.ledger.unite(
                        meeting, sizes, self.why("it meets a dimension that cannot change")
                    )
                )
        return layout

    def select_by_index(self, lane: Lane | None, index: Ref) -> Lane | None:
        """The lane after picking constant indices; the picking tensor is renumbered later."""
        if lane is None:
            return None
        value = self.value(index)
        root = self.roots.get(index.index)
        flat = self.ledger.aligned(lane)
        if value.data is None or root is None or len(value.shape) != 1:
            self.ledger.protect(lane, self.why("it is indexed by values that cannot follow"))
            return None
        picks = value.data.detach().cpu().numpy().reshape(-1)
        ids = self.ledger.ids(flat)[picks]
        self.renumbered.append((self.value(root).name, flat))
        picked = Lane(len(picks), ids)
        own = self.layout(root)
        if len(own) == 1 and own[0] is not None:
            self.ledger.unite([own[0], picked], {0: len(picks)}, "")
        return picked


def shifted(lane: Lane | None, by: int, shape: Sequence[int]) -> Lane | None:
    """A lane seen from a result with more leading dimensions; rows of size 1 fall away."""
    if lane is None or lane.ids is None or (not by and not lane.rows):
        return lane
    if not lane.rows:
        return lane
    keep = [at for at, row in enumerate(lane.rows) if shape[row] > 1]
    rows = tuple(lane.rows[at] + by for at in keep)
    if len(keep) == len(lane.rows) and not by:
        return lane
    ids = lane.ids.reshape([*(shape[lane.rows[at]] for at in keep), lane.size])
    return Lane(lane.size, ids, rows)


def varying(ids: np.ndarray) -> list[int]:
    """The axes of an array along which it is not constant."""
    return [
        axis
        for axis in range(ids.ndim)
        if ids.shape[axis] > 1 and bool((ids != ids.take([0], axis=axis)).any())
    ]
