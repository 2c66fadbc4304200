"""The operations of a dense pass, and what of it a pass that starts in the middle needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph.trace import Node, Recorder, Value
from secateur.inputs import Inputs, evaluating, named_tensors
from secateur.plan import Plan
from secateur.recover.batches import forward

__all__ = ["Layout", "Recipe", "prepare", "tensors_in"]

# What can be read off a tensor is decided by its values: nothing can stand in for them.
VALUES_DECIDE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory, without what it holds."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def standin(self) -> Tensor:
        """A tensor that nobody may look at."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


@dataclasses.dataclass(eq=False)
class Recipe:
    """What a dense pass ran, on inputs of one shape.

    Attributes
    ----------
    nodes : list of Node
    values : list of Value
    layouts : dict
        Value -> its layout when it was made.
    roots : dict
        Value -> the first value in the same memory.
    outputs : set of int
        Values that left the model.
    last : int
        Operations before it can be left out, since they only hand on tensors of known layouts.
    """

    nodes: list[Node]
    values: list[Value]
    layouts: dict[int, Layout]
    roots: dict[int, int]
    outputs: set[int]
    last: int
    _live: dict[int, frozenset[int] | None] = dataclasses.field(default_factory=dict)

    def first_touched(self, plan: Plan) -> int:
        """The first operation that a plan may change anything for, or the last start before it."""
        names = {*plan.removed, *plan.renumbered, *plan.masks, *plan.shapes}
        names |= {entry.name for entry in plan.rescaled}
        paths = {name.rpartition(".")[0] for name in names} | set(plan.attributes)
        for node in self.nodes[: self.last]:
            inside = any(
                path == "" or node.module == path or node.module.startswith(f"{path}.")
                for path in paths
            )
            if inside or any(self.values[at].name in names for at in node.inputs):
                return node.index
        return self.last

    def deepest(self) -> int:
        """The last start that any plan can need: the last operation that reads a parameter."""
        reading = [
            node.index
            for node in self.nodes[: self.last]
            if any(self.values[at].kind == "state" for at in node.inputs)
        ]
        return max(reading, default=0)

    def live(self, start: int) -> frozenset[int] | None:
        """Results before an operation that it or later ones read.

        None when later ones write where two of them lie, so that copies would come apart.
        """
        if start not in self._live:
            self._live[start] = self._needed(start)
        return self._live[start]

    def _needed(self, start: int) -> frozenset[int] | None:
        made = {at for node in self.nodes[:start] for at in node.outputs}
        made = {at for at in made if self.values[at].kind == "result"}
        later = {at for node in self.nodes[start:] for at in node.inputs} | self.outputs
        live = made & later
        written = {self.roots[at] for node in self.nodes[start:] for at in _written(node)}
        for root in written:
            sharing = [at for at in live if self.roots[at] == root]
            if len(sharing) > 1 or (sharing and self.values[root].kind != "result"):
                return None
        return frozenset(live)


class _Preparing(Recorder):
    """Records layouts and shared memory as well."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__(model, inputs, on_node=self._note)
        self.layouts: dict[int, Layout] = {}
        self.roots: dict[int, int] = {}
        self.opaque: list[int] = []
        self._given: list[Tensor] = []

    def execute(self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._given = [*tensors_in(args), *tensors_in(kwargs)]
        return super().execute(node, func, args, kwargs)

    def _note(self, node: Node, result: Any) -> None:
        held = dict(zip(map(_memory, self._given), node.inputs, strict=False))
        for at in node.inputs:
            self.roots.setdefault(at, at)
        for at, tensor in zip(node.outputs, tensors_in(result), strict=True):
            if at not in node.inputs:
                self.layouts[at] = Layout(
                    tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device
                )
                source = held.get(_memory(tensor))
                self.roots[at] = at if source is None else self.roots[source]
        if not _replaceable(node, result) or any(
            self.values[self.roots[at]].kind != "result" for at in _written(node)
        ):
            self.opaque.append(node.index)
        self._given = []


def prepare(model: nn.Module, inputs: Inputs) -> Recipe:
    """Run a model in eval mode and note what a start in the middle needs to know."""
    recorder = _Preparing(model, inputs)
    with evaluating(model):
        with recorder.watching():
            output = forward(model, inputs)
        outputs = {recorder.index_of(tensor) for _, tensor in named_tensors(output)}
    last = min(recorder.opaque, default=len(recorder.nodes))
    return Recipe(recorder.nodes, recorder.values, recorder.layouts, recorder.roots, outputs, last)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor among arguments or results, in the order in which nodes list them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def _replaceable(node: Node, result: Any) -> bool:
    """Whether an operation gives nothing but tensors, the same every time, whatever they hold."""
    tags = node.func.tags
    if any(tag in tags for tag in VALUES_DECIDE) or not node.outputs:
        return False
    # Attention counts as random for its dropout, which inference leaves out.
    random = torch.Tag.nondeterministic_seeded in tags and node.bound.get("dropout_p", 1.0) != 0.0
    return not random and _only_tensors(result)


def _only_tensors(result: Any) -> bool:
    if isinstance(result, (tuple, list)):
        return all(_only_tensors(item) for item in result)
    return isinstance(result, Tensor) and result.layout == torch.strided


def _written(node: Node) -> Iterable[int]:
    """Values that an operation writes into."""
    arguments = node.func._schema.arguments
    for argument in arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.bound[argument.name]
            for one in given if isinstance(given, (list, tuple)) else (given,):
                if hasattr(one, "index") and one.index in node.inputs:
                    yield one.index


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
