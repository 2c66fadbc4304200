"""Letting the attributes of modules follow the sizes of their tensors.

Where an operation meets an old size, some attribute of the module that called it may hold it:
whichever attribute gets the module further, when it takes the new size, is the one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from secateur.errors import first_line
from secateur.graph.trace import Node, Trace
from secateur.surgery.attempt import Attempt, Obstacle, Stop
from secateur.surgery.compare import Runner

__all__ = ["Follower", "replaced"]

# In as many parts code cuts what it projected at once: queries, keys, values and a gate.
PARTS = 4

Change = tuple[Any, Any, "tuple[int, int] | None"]


@dataclasses.dataclass
class _Held:
    """An attribute that followed a size, and where that size was first needed."""

    dense: Any
    value: Any
    where: tuple[int, int] | None


class Follower:
    """Runs a module again after one of its attributes took the size that was missing."""

    def __init__(self, runner: Runner, modules: dict[str, nn.Module]) -> None:
        self.runner = runner
        self.modules = modules
        self.held: dict[tuple[str, str], _Held] = {}
        self.conflict: tuple[int, int] | None = None
        self.where = ""

    def result(self, stop: Stop | None) -> Attempt:
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
        for path, values in attributes.items():
            module = self.modules[path]
            if isinstance(module, nn.MultiheadAttention) and "num_heads" in values:
                # Its code works this out anew at every call; the attribute only says it.
                values["head_dim"] = module.embed_dim // values["num_heads"]
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
            except Stop as stop:
                return None, stop
            except Exception as error:  # the model's code may raise anything
                return None, Stop(runner.position, first_line(error))

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
        self, path: str, module: nn.Module, stop: Stop, again: Callable[[], Any]
    ) -> tuple[Any, Stop | None] | None:
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
        self, path: str, module: nn.Module, stop: Stop, again: Callable[[], Any]
    ) -> tuple[Any, Stop | None] | None:
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
        self, module: nn.Module, path: str, changes: list[Change]
    ) -> Iterator[tuple[list[Change], list[str]]]:
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
        for old, new, where in changes:
            if isinstance(old, int) and isinstance(new, int):
                yield from self._factors(module, path, (old, new, where))

    def _factors(
        self, module: nn.Module, path: str, change: Change
    ) -> Iterator[tuple[list[Change], list[str]]]:
        """Attributes that the code multiplies to the size: the width of query, key and value."""
        old, new, where = change
        sizes = [value for value in module.__dict__.values() if type(value) is int]
        for count in range(2, PARTS + 1):
            # Where an attribute holds the count, that is no number of parts but one of heads.
            if old % count == 0 and new % count == 0 and count not in sizes:
                part = (old // count, new // count, where)
                for key in module.__dict__:
                    if self._wanted(module, path, key, part):
                        yield [part], [key]

    def _wanted(self, module: nn.Module, path: str, key: str, change: Change) -> bool:
        if key.startswith(("_", "size_of_")):
            return False
        held = self.held.get((path, key))
        current = module.__dict__[key]
        wanted = replaced(held.dense if held else current, change[0], change[1])
        return wanted is not None and wanted != current

    def _set(
        self, path: str, module: nn.Module, changes: list[Change], keys: list[str]
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

    def _changes(self, node: Node) -> list[Change]:
        """Old and new sizes that meet at an operation, those of its results first."""
        sizes, values = self.runner.sizes, self.runner.sizes.graph.trace.values
        found: list[Change] = []
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
