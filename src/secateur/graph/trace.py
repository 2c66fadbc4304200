"""Watch one forward pass: every ATen operation that runs, with the values it reads and writes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.errors import InputError
from secateur.graph.hollow import Hollow, ValuesNeeded
from secateur.inputs import Inputs, evaluating, named_tensors, run

__all__ = [
    "INCIDENTAL",
    "Node",
    "Recorder",
    "Ref",
    "Trace",
    "Value",
    "canonical",
    "named_state",
    "record",
]


# Operations that appear or vanish with strides and sizes of one, and carry sizes unchanged.
INCIDENTAL = frozenset(
    f"aten::{name}"
    for name in "clone alias detach lift_fresh _to_copy empty as_strided contiguous".split()
)
_ALIASES = {"aten::_unsafe_view": "aten::view", "aten::_reshape_alias": "aten::view"}


def canonical(op: str) -> str:
    """One name for operations that differ only in how they treat memory.

    Examples
    --------
    >>> canonical("aten::_unsafe_view"), canonical("aten::add_")
    ('aten::view', 'aten::add')
    """
    if op.endswith("_") and not op.endswith("__"):
        op = op[:-1]
    return _ALIASES.get(op, op)


@dataclasses.dataclass(frozen=True, slots=True)
class Ref:
    """A tensor argument, as the index of the value it is."""

    index: int


@dataclasses.dataclass(slots=True)
class Value:
    """One tensor of the forward pass.

    Attributes
    ----------
    kind : str
        ``"state"`` (a parameter, buffer or tensor attribute of a module), ``"input"``,
        ``"constant"`` (made outside of every recorded operation) or ``"result"``.
    name : str
        For state, its dotted name in the model; for inputs, ``args.0`` or ``kwargs.mask``.
    data : torch.Tensor or None
        Kept for integer and boolean tensors, which may be indices.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    name: str = ""
    data: Tensor | None = None


@dataclasses.dataclass
class Node:
    """One executed operation.

    Attributes
    ----------
    op : str
        Schema name without the overload and without the in-place mark: ``"aten::add"``.
    args, kwargs
        As called, with every tensor replaced by a :class:`Ref`.
    inputs, outputs : list of int
        Value indices of every tensor read and written, in order.
    module : str
        Dotted path of the innermost module whose forward was running.
    """

    index: int
    op: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[int]
    outputs: list[int]
    module: str
    in_place: bool = False

    @cached_property
    def bound(self) -> dict[str, Any]:
        """Every argument by its name in the schema, defaults included."""
        bound: dict[str, Any] = {}
        for position, argument in enumerate(self.func._schema.arguments):
            if position < len(self.args):
                bound[argument.name] = self.args[position]
            elif argument.name in self.kwargs:
                bound[argument.name] = self.kwargs[argument.name]
            else:
                bound[argument.name] = argument.default_value
        return bound


@dataclasses.dataclass
class Trace:
    """A recorded forward pass.

    Attributes
    ----------
    values : list of Value
    nodes : list of Node
        The operations of inference, in order.
    outputs : list of (str, int)
        Values that left the model.
    module_inputs : dict
        Module path -> values that its first call was given.
    module_outputs : dict
        Module path -> values that each of its calls in inference returned.
    training_only : list of Node
        The operations of a pass in training mode, recorded where inference leaves parameters
        unused (an auxiliary head): what they read shrinks too.
    hollow : bool
        Whether products and convolutions were left out, since no value of theirs decides
        anything.
    """

    values: list[Value]
    nodes: list[Node]
    outputs: list[tuple[str, int]]
    module_inputs: dict[str, list[int]]
    module_outputs: dict[str, list[list[int]]] = dataclasses.field(default_factory=dict)
    training_only: list[Node] = dataclasses.field(default_factory=list)
    hollow: bool = False

    def essential(self) -> list[Node]:
        """The operations of inference, without the incidental ones."""
        return [node for node in self.nodes if node.op not in INCIDENTAL]


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter, buffer and plain tensor attribute once, under its first dotted name."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for table in (module._parameters, module._buffers, vars(module)):
            for key, tensor in table.items():
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    state[prefix + key] = tensor
    return state


class Recorder(TorchDispatchMode):
    """Records every operation below autograd, and which module called it.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : Inputs
    on_node : callable, optional
        Called after each recorded operation with the node and its raw outputs.
    hollow : Hollow, optional
        Stands in for expensive operations.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        on_node: Callable[[Node, Any], None] | None = None,
        hollow: Hollow | None = None,
    ) -> None:
        super().__init__()
        self.hollow = hollow
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.module_inputs: dict[str, list[int]] = {}
        self.module_outputs: dict[str, list[list[int]]] = {}
        self._on_node = on_node
        self._known: dict[int, tuple[Any, int]] = {}
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: list[str] = [""]
        self._schema: dict[Any, tuple[str, bool]] = {}
        for name, tensor in named_state(model).items():
            self._define(tensor, "state", name)
        for name, tensor in inputs.tensors():
            if id(tensor) not in self._known:
                self._define(tensor, "input", name)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would import its compiler, a second of work, to keep it out of this class.
        return False

    @property
    def module(self) -> str:
        return self._stack[-1]

    def _define(self, tensor: Tensor, kind: str, name: str = "") -> int:
        index = len(self.values)
        numbers = tensor.dtype.is_floating_point or tensor.dtype.is_complex
        data = None if numbers or kind == "input" else tensor
        self.values.append(Value(tuple(tensor.shape), tensor.dtype, kind, name, data))
        key = id(tensor)
        known = self._known
        known[key] = (weakref.ref(tensor, functools.partial(_forget, known, key, index)), index)
        return index

    def index_of(self, tensor: Tensor) -> int:
        """The value index of a tensor; one that no operation made is a constant."""
        entry = self._known.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            index = entry[1]
            if self.values[index].shape == tuple(tensor.shape):
                return index
        return self._define(tensor, "constant")

    def _refer(self, argument: Any, found: list[int]) -> Any:
        if isinstance(argument, Tensor):
            index = self.index_of(argument)
            found.append(index)
            return Ref(index)
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._refer(item, found) for item in argument)
        return argument

    def _name(self, func: Any) -> tuple[str, bool]:
        cached = self._schema.get(func)
        if cached is None:
            name = func._schema.name
            in_place = name.endswith("_") and not name.endswith("__")
            cached = (name[:-1] if in_place else name, in_place)
            self._schema[func] = cached
        return cached

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        found: list[int] = []
        referred = tuple(self._refer(argument, found) for argument in args)
        named = {key: self._refer(argument, found) for key, argument in kwargs.items()}
        op, in_place = self._name(func)
        node = Node(
            len(self.nodes), op, func, referred, named, found, [], self._stack[-1], in_place
        )
        result = self.execute(node, func, args, kwargs)
        flat = result if isinstance(result, (tuple, list)) else (result,)
        for tensor in flat:
            if isinstance(tensor, Tensor):
                node.outputs.append(self._output(tensor))
            elif isinstance(tensor, (tuple, list)):
                node.outputs.extend(self._output(t) for t in tensor if isinstance(t, Tensor))
        self.nodes.append(node)
        if self._on_node is not None:
            self._on_node(node, result)
        return result

    def execute(self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation; subclasses check it here."""
        if self.hollow is None:
            return func(*args, **kwargs)
        result = self.hollow.result(node.op, args)
        if result is not None:
            return result
        result = func(*args, **kwargs)
        self.hollow.follow(node.op, args, kwargs, result)
        return result

    def _output(self, tensor: Tensor) -> int:
        entry = self._known.get(id(tensor))
        if (
            entry is not None
            and entry[0]() is tensor
            and self.values[entry[1]].shape == tuple(tensor.shape)
        ):
            return entry[1]
        return self._define(tensor, "result")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record inside, and follow which module is running."""

        def enter(module: nn.Module, args: Any) -> None:
            path = self._paths.get(id(module), self._stack[-1])
            self._stack.append(path)
            tensors = [tensor for _, tensor in named_tensors(args)]
            self.module_inputs.setdefault(path, [self.index_of(tensor) for tensor in tensors])

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            path = self._stack.pop()
            tensors = [tensor for _, tensor in named_tensors(output)]
            returned = [self.index_of(tensor) for tensor in tensors]
            self.module_outputs.setdefault(path, []).append(returned)

        register = torch.nn.modules.module
        before = register.register_module_forward_pre_hook(enter)
        after = register.register_module_forward_hook(leave, always_call=True)
        try:
            with self:
                yield
        finally:
            before.remove()
            after.remove()


def _forget(known: dict[int, tuple[Any, int]], key: int, index: int, gone: object) -> None:
    entry = known.get(key)
    if entry is not None and entry[1] == index:
        del known[key]


def record(model: nn.Module, inputs: Inputs) -> Trace:
    """Run the model once in eval mode without gradients and record what it executes.

    Products and convolutions are left out, unless the model's code turns out to look at values.

    Raises
    ------
    InputError
        When the model rejects the inputs.
    """
    try:
        return _record(model, inputs, Hollow())
    except (ValuesNeeded, InputError):
        return _record(model, inputs, None)


def _record(model: nn.Module, inputs: Inputs, hollow: Hollow | None) -> Trace:
    inputs = inputs.fresh()
    recorder = Recorder(model, inputs, hollow=hollow)
    with evaluating(model):
        with recorder.watching():
            output = run(model, inputs)
        outputs = [(name, recorder.index_of(tensor)) for name, tensor in named_tensors(output)]
    nodes = list(recorder.nodes)
    returned = {path: list(calls) for path, calls in recorder.module_outputs.items()}
    if _unused(model, recorder, nodes):
        outputs += _record_training(model, inputs, recorder)
    return Trace(
        recorder.values,
        nodes,
        outputs,
        recorder.module_inputs,
        returned,
        recorder.nodes[len(nodes) :],
        hollow is not None,
    )


def _unused(model: nn.Module, recorder: Recorder, nodes: list[Node]) -> bool:
    used = {index for node in nodes for index in node.inputs}
    return any(recorder.index_of(parameter) not in used for parameter in model.parameters())


def _record_training(model: nn.Module, inputs: Inputs, recorder: Recorder) -> list[tuple[str, int]]:
    """Go on recording in training mode; random numbers are put back as well."""
    start = len(recorder.nodes)
    try:
        with evaluating(model), torch.random.fork_rng(devices=[]):
            for module in model.modules():
                module.training = True
            with recorder.watching():
                output = model(*inputs.args, **inputs.kwargs)
            return [(name, recorder.index_of(tensor)) for name, tensor in named_tensors(output)]
    except Exception:
        # Training takes other inputs (targets, say): what only it uses stays unknown.
        del recorder.nodes[start:]
        return []
