"""A trial run of the pruned model, before anything real is touched.

The model runs with weights that have their new shapes and take no memory. Every operation is
compared with the recorded forward pass: does it run, and does its result have the size that the
graph predicts? Where a module's own attribute holds an old size, the attribute follows and the
module is run again. What no attribute explains becomes a constraint, and the plan is made anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.graph.graph import Graph
from secateur.graph.hollow import Hollow
from secateur.graph.trace import INCIDENTAL, Node, Recorder, Trace, canonical, named_state
from secateur.inputs import Inputs, evaluating
from secateur.surgery.expected import ExpectedSizes
from secateur.surgery.transaction import Snapshot

__all__ = ["Attempt", "Obstacle", "ScaleChange", "attempt"]

SCALING = {"aten::mul": -1, "aten::div": 1}


@dataclasses.dataclass
class Obstacle:
    """The first operation that the pruned model cannot do, or does with a wrong size.

    Attributes
    ----------
    node : Node
        The recorded operation at that place.
    module : str
        Path of the module whose code calls it.
    holder : tuple of int or None
        (value, dim) that already decided the size which two places of the code disagree about.
    outputs : list of (int, int)
        (output, dim) of every result that has a wrong size; empty where there was no result.
    called : tuple of int
        The sizes that the code asked for: integers among the arguments, in order.
    """

    node: Node
    module: str
    message: str
    holder: tuple[int, int] | None = None
    outputs: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    called: tuple[int, ...] = ()


@dataclasses.dataclass
class ScaleChange:
    """A number that the code computed from a size; the operand must be multiplied by a factor."""

    node: Node
    operand: int
    factor: float


@dataclasses.dataclass
class Attempt:
    """What a trial run found.

    Attributes
    ----------
    obstacle : Obstacle or None
        None when the whole model ran.
    attributes : dict
        Module path -> attribute -> new value that it took.
    scales : list of ScaleChange
    followed : bool
        Whether every operation was compared; False where the code took another way.
    parted : Obstacle or None
        Where it took another way.
    """

    obstacle: Obstacle | None
    attributes: dict[str, dict[str, Any]]
    scales: list[ScaleChange]
    followed: bool
    trace: Trace | None = None
    parted: Obstacle | None = None


class _Stop(Exception):
    """Raised inside the model's code at an operation that does not fit."""

    def __init__(
        self,
        position: int,
        message: str,
        outputs: list[tuple[int, int]] | None = None,
        called: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message)
        self.position = position
        self.message = message
        self.outputs = outputs or []
        self.called = called


_Change = tuple[Any, Any, "tuple[int, int] | None"]


class _Runner(Recorder):
    """Compares what runs with the recorded operations, one by one."""

    def __init__(self, model: nn.Module, inputs: Inputs, sizes: ExpectedSizes) -> None:
        # Values decide nothing here that they did not decide when the model was recorded.
        hollow = Hollow(trusting=True) if sizes.graph.trace.hollow else None
        super().__init__(model, inputs, hollow=hollow)
        self.sizes = sizes
        self.dense = sizes.graph.trace.essential()
        self.position = 0
        self.followed = True
        self.scales: dict[int, list[ScaleChange]] = {}

    def execute(self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op in INCIDENTAL or not self.followed:
            return super().execute(node, func, args, kwargs)
        at = self.position
        if at >= len(self.dense) or canonical(self.dense[at].op) != canonical(node.op):
            self.followed = False
            return super().execute(node, func, args, kwargs)
        dense = self.dense[at]
        try:
            result = super().execute(node, func, args, kwargs)
        except Exception as error:
            raise _Stop(at, _first_line(error), called=sizes_in(node.args)) from error
        flat = result if isinstance(result, (tuple, list)) else (result,)
        found = [tuple(t.shape) for t in flat if isinstance(t, Tensor)]
        wanted = [self.sizes.shape(index) for index in dense.outputs]
        if found != wanted:
            wrong = [
                (output, dim)
                for output, (a, b) in enumerate(zip(found, wanted, strict=False))
                for dim, (left, right) in enumerate(zip(a, b, strict=False))
                if left != right
            ]
            raise _Stop(at, f"it returns {found} where {wanted} is due", wrong, sizes_in(node.args))
        self._compare_scales(at, dense, node)
        self.position += 1
        return result

    def _compare_scales(self, at: int, dense: Node, node: Node) -> None:
        changes = self.scales[at] = []
        lane = self.sizes.graph.propagation.scales.get(dense.index)
        if lane is not None:
            before = self.sizes.graph.trace.values[dense.inputs[0]].shape[-1]
            after = self.sizes.shape(dense.inputs[0])[-1]
            if before != after:
                changes.append(ScaleChange(dense, dense.inputs[0], (after / before) ** 0.5))
        old, new = dense.kwargs.get("scale"), node.kwargs.get("scale")
        if isinstance(old, float) and isinstance(new, float) and old != new:
            changes.append(ScaleChange(dense, dense.inputs[0], old / new))
        for a, b in zip(dense.args, node.args, strict=False):
            numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
            if numbers and a != b and dense.op in SCALING and dense.inputs:
                power = SCALING[dense.op]
                changes.append(ScaleChange(dense, dense.inputs[0], float(b / a) ** power))


def attempt(
    model: nn.Module,
    inputs: Inputs,
    graph: Graph,
    sizes: ExpectedSizes,
    shapes: dict[str, tuple[int, ...]],
    attributes: dict[str, dict[str, Any]],
    values: dict[str, Tensor],
) -> Attempt:
    """Run the model as it will be, on weights without memory; everything is put back.

    Parameters
    ----------
    shapes : dict
        New shape of every tensor that is cut.
    attributes : dict
        Sizes that are known to follow.
    values : dict
        New contents of index buffers.
    """
    inputs = inputs.fresh()
    snapshot = Snapshot(model)
    try:
        _hollow(model, shapes, values)
        modules = dict(model.named_modules())
        for path, held in attributes.items():
            for key, value in held.items():
                setattr(modules[path], key, value)
        runner = _Runner(model, inputs, sizes)
        follower = _Follower(runner, modules)
        with evaluating(model), follower.watching(), runner.watching():
            try:
                model(*inputs.args, **inputs.kwargs)
            except _Stop as stop:
                return follower.result(stop)
            except Exception as error:
                return follower.result(_Stop(runner.position, _first_line(error)))
        return follower.result(None)
    finally:
        snapshot.restore()


def _hollow(
    model: nn.Module, shapes: dict[str, tuple[int, ...]], values: dict[str, Tensor]
) -> None:
    """Give every tensor that is cut its new shape, without memory behind it."""
    for name, tensor in named_state(model).items():
        if name in values:
            tensor.data = values[name]
        elif name in shapes:
            if tensor.is_leaf:
                tensor.grad = None
            tensor.data = _blank(tensor.data, shapes[name])


def _blank(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros that take no memory until they are written: the system maps them all to one page."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    count = math.prod(shape) * like.element_size()
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(like.dtype).reshape(shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


@dataclasses.dataclass
class _Held:
    """An attribute that followed a size, and where that size was first needed."""

    dense: Any
    value: Any
    where: tuple[int, int] | None


class _Follower:
    """Runs a module again after one of its attributes took the size that was missing."""

    def __init__(self, runner: _Runner, modules: dict[str, nn.Module]) -> None:
        self.runner = runner
        self.modules = modules
        self.held: dict[tuple[str, str], _Held] = {}
        self.conflict: tuple[int, int] | None = None
        self.where = ""

    def result(self, stop: _Stop | None) -> Attempt:
        runner = self.runner
        obstacle = None
        if stop is not None:
            at = min(stop.position, len(runner.dense) - 1)
            obstacle = Obstacle(
                runner.dense[at],
                self.where,
                stop.message,
                self.conflict,
                stop.outputs,
                stop.called,
            )
        attributes: dict[str, dict[str, Any]] = {}
        for (path, key), held in self.held.items():
            attributes.setdefault(path, {})[key] = held.value
        scales = [change for at in sorted(runner.scales) for change in runner.scales[at]]
        trace = Trace(runner.values, runner.nodes, [], runner.module_inputs)
        parted = None
        if not runner.followed:
            node = runner.dense[min(runner.position, len(runner.dense) - 1)]
            parted = Obstacle(node, node.module, "its code takes another way at another size")
        return Attempt(obstacle, attributes, scales, runner.followed, trace, parted)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        wrapped = []
        for path, module in self.modules.items():
            if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                continue
            own = module.__dict__.get("forward")
            call = functools.partial(self.call, path, module, module.forward)
            module.__dict__["forward"] = call
            wrapped.append((module, own))
        try:
            yield
        finally:
            for module, own in wrapped:
                if own is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = own

    def call(
        self, path: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        runner = self.runner
        start, recorded, followed = runner.position, len(runner.nodes), runner.followed

        def again() -> Any:
            runner.position, runner.followed = start, followed
            del runner.nodes[recorded:]
            try:
                return forward(*args, **kwargs), None
            except _Stop as stop:
                return None, stop
            except Exception as error:
                return None, _Stop(runner.position, _first_line(error))

        output, stop = again()
        while stop is not None:
            advanced = self._advance(path, module, stop, again)
            advanced = advanced or self._advance_part(path, module, stop, again)
            if advanced is None:
                self.where = self.where or path
                raise stop
            output, stop = advanced
        return output

    def _advance(
        self, path: str, module: nn.Module, stop: _Stop, again: Callable[[], Any]
    ) -> tuple[Any, _Stop | None] | None:
        """Let one attribute take a missing size so that the module gets further."""
        runner = self.runner
        if stop.position >= len(runner.dense):
            return None
        changes = self._changes(runner.dense[stop.position])
        changes = [change for change in changes if change[0] != change[1]]
        for tried, keys in self._candidates(module, path, changes):
            before = self._set(path, module, tried, keys)
            if not before:
                continue
            output, further = again()
            if further is None or further.position > stop.position:
                self.conflict = None
                return output, further
            for key, (value, held) in before.items():
                setattr(module, key, value)
                if held is None:
                    self.held.pop((path, key), None)
                else:
                    self.held[path, key] = held
        return None

    def _advance_part(
        self, path: str, module: nn.Module, stop: _Stop, again: Callable[[], Any]
    ) -> tuple[Any, _Stop | None] | None:
        """The same with a part's attribute, where a method of the part ran and not its forward."""
        dense = self.runner.dense
        if stop.position >= len(dense) or dense[stop.position].module != path:
            return None
        for name, part in module.named_children():
            advanced = self._advance(f"{path}.{name}" if path else name, part, stop, again)
            if advanced is not None:
                return advanced
        return None

    def _candidates(
        self, module: nn.Module, path: str, changes: list[_Change]
    ) -> Iterator[tuple[list[_Change], list[str]]]:
        """One attribute for one size, then all attributes that hold it, then all sizes at once."""
        matching: dict[str, None] = {}
        for change in changes:
            keys = [key for key in module.__dict__ if self._wanted(module, path, key, change)]
            matching |= dict.fromkeys(keys)
            yield from (([change], [key]) for key in keys)
            if len(keys) > 1:
                yield [change], keys
        if len(matching) > 1:
            yield changes, list(matching)

    def _wanted(self, module: nn.Module, path: str, key: str, change: _Change) -> bool:
        if key.startswith(("_", "size_of_")):
            return False
        held = self.held.get((path, key))
        current = module.__dict__[key]
        wanted = replaced(held.dense if held else current, change[0], change[1])
        return wanted is not None and wanted != current

    def _set(
        self, path: str, module: nn.Module, changes: list[_Change], keys: list[str]
    ) -> dict[str, tuple[Any, _Held | None]]:
        """Give every attribute that holds one of the old sizes the new one; what they were."""
        before: dict[str, tuple[Any, _Held | None]] = {}
        for key in keys:
            current = module.__dict__[key]
            held = self.held.get((path, key))
            dense = held.dense if held else current
            for old, new, where in changes:
                wanted = replaced(dense, old, new)
                if wanted is None or wanted == current:
                    continue
                if held is not None:
                    self.conflict = self.conflict or held.where
                before[key] = (current, held)
                setattr(module, key, wanted)
                self.held[path, key] = _Held(dense, wanted, where)
                break
        return before

    def _changes(self, node: Node) -> list[_Change]:
        """Old and new sizes that meet at an operation, those of its results first."""
        sizes, values = self.runner.sizes, self.runner.sizes.graph.trace.values
        found: list[_Change] = []
        for index in node.outputs:
            found.append((values[index].shape, sizes.shape(index), None))
        if node.op in ("aten::split_with_sizes", "aten::unsafe_split_with_sizes"):
            dim = node.bound["dim"]
            before = tuple(values[index].shape[dim] for index in node.outputs)
            after = tuple(sizes.shape(index)[dim] for index in node.outputs)
            found.append((before, after, None))
        for index in (*node.outputs, *node.inputs):
            for dim, (old, new) in enumerate(
                zip(values[index].shape, sizes.shape(index), strict=True)
            ):
                if old != new and (old, new) not in [(a, b) for a, b, _ in found]:
                    found.append((old, new, (index, dim)))
        found.extend((old, new, None) for old, new in self._bounds(node))
        return found

    def _bounds(self, node: Node) -> list[tuple[int, int]]:
        """Where the ends of a slice move to."""
        if node.op != "aten::slice":
            return []
        sizes = self.runner.sizes
        source = node.inputs[0]
        dim = node.bound["dim"] % len(sizes.shape(source))
        lane = sizes.graph.propagation.layout(source)[dim]
        if lane is None or lane.ids is None or lane.rows:
            return []
        gone = sizes.removed[sizes.graph.coupling.labels[lane.ids]]
        ends = []
        for bound in (node.bound["start"], node.bound["end"]):
            if isinstance(bound, int) and 0 < bound < lane.size:
                ends.append((bound, bound - int(gone[:bound].sum())))
        return [(old, new) for old, new in ends if old != new]


def sizes_in(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Integers among arguments, those of lists included.

    Examples
    --------
    >>> sizes_in((None, [2, -1, 3], 4, True))
    (2, -1, 3, 4)
    """
    found: list[int] = []
    for argument in args:
        if isinstance(argument, (list, tuple)):
            found.extend(sizes_in(tuple(argument)))
        elif isinstance(argument, int) and not isinstance(argument, bool):
            found.append(argument)
    return tuple(found)


def replaced(value: Any, old: int | tuple[int, ...], new: int | tuple[int, ...]) -> Any:
    """An attribute's value with an old size changed to a new one; None where it holds none.

    Examples
    --------
    >>> replaced(64, 64, 40), replaced((8, 64), 64, 40), replaced(3, 64, 40)
    (40, (8, 40), None)
    >>> replaced([8, 8], (2, 8, 8), (2, 8, 5))
    [8, 5]
    """
    if isinstance(value, bool):
        return None
    if isinstance(old, tuple):
        assert isinstance(new, tuple)
        length = len(value) if isinstance(value, (list, tuple)) else 0
        for at in range(len(old) - length + 1 if length > 1 else 0):
            run = slice(at, at + length)
            if tuple(value) == old[run] and old[run] != new[run]:
                return type(value)(new[run])
        return None
    if isinstance(value, int):
        return new if value == old else None
    if isinstance(value, (list, tuple)) and value:
        plain = all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        if plain and old in value:
            items = [new if item == old else item for item in value]
            return items if isinstance(value, list) else tuple(items)
    return None
