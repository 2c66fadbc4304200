"""The traced graph itself as a model, for Python code that can never follow.

A literal in a view, a width that is computed in a closure: no attribute holds them. The exported
graph holds every size as an argument of one of its nodes. Here each becomes an attribute of the
graph module, so that a plan can change it, replay it and save it like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.graph.lanes import Lane
from secateur.graph.trace import Recorder, Trace
from secateur.inputs import Inputs, evaluating
from secateur.surgery.expected import ExpectedSizes

__all__ = ["GraphForm", "record_graph", "sizes_of_nodes", "to_graph"]

PREFIX = "size_of_"
NORMS = {"layer_norm", "native_layer_norm", "rms_norm"}
FLAGS = {"batch_norm": 5, "dropout": 2, "instance_norm": None}


class GraphForm(fx.GraphModule):
    """A graph module whose sizes are attributes; it trains, evaluates and exports as usual."""


def to_graph(model: nn.Module, inputs: Inputs) -> GraphForm:
    """Export a model and return its graph as a trainable module with the same parameter names.

    The batch size stays free where the model's code allows it.

    Raises
    ------
    InputError
        When torch.export cannot capture the model; says why.
    """
    with evaluating(model):
        exported = _export(model, inputs)
    source = exported.module()
    graph = source.graph
    attributes: dict[str, Any] = {}
    for node in list(graph.nodes):
        if node.op == "call_module":
            # Guards on the example inputs would refuse the smaller model's batches.
            graph.erase_node(node)
        elif node.op == "call_function":
            _lift(graph, node, attributes)
    for key, value in attributes.items():
        setattr(source, key, value)
    form = GraphForm(source, graph, type(model).__name__)
    form.graph.lint()
    _tie(model, form)
    for module in form.modules():
        module.training = model.training
    return form


def _export(model: nn.Module, inputs: Inputs) -> Any:
    automatic = torch.export.Dim.AUTO  # type: ignore[attr-defined]
    leading = [
        {0: automatic} if isinstance(value, Tensor) and value.dim() else None
        for value in (*inputs.args, *inputs.kwargs.values())
    ]
    names = list(inputs.kwargs)
    try:
        if all(isinstance(v, Tensor) for v in (*inputs.args, *inputs.kwargs.values())):
            shapes: Any = (
                tuple(leading)
                if not names
                else dict(zip(names, leading[len(inputs.args) :], strict=True))
            )
            if not (names and inputs.args):
                return torch.export.export(
                    model, inputs.args, inputs.kwargs, dynamic_shapes=shapes, strict=False
                )
    except Exception:
        pass
    try:
        return torch.export.export(model, inputs.args, inputs.kwargs, strict=False)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"torch.export cannot capture the model ({type(error).__name__}: {first}); "
            "form='python' does not need it"
        ) from error


def _lift(graph: fx.Graph, node: fx.Node, attributes: dict[str, Any]) -> None:
    """Turn the sizes among a node's arguments, and its training flag, into attributes."""
    name = getattr(node.target, "_schema", None)
    op = name.name.removeprefix("aten::").rstrip("_") if name is not None else ""
    flag = FLAGS.get(op)
    always = op == "batch_norm" and node.args[3] is None
    if flag is not None and len(node.args) > flag and not always:
        with graph.inserting_before(node):
            node.update_arg(flag, graph.create_node("get_attr", "training"))
    schema = name.arguments if name is not None else []
    for position, value in enumerate(node.args):
        wanted = schema[position].name if position < len(schema) else ""
        lifted = _is_size(op, wanted, value)
        if lifted:
            key = f"{PREFIX}{node.name}__{position}"
            if isinstance(value, (list, tuple)) and any(isinstance(v, fx.Node) for v in value):
                items = []
                for at, item in enumerate(value):
                    if isinstance(item, int):
                        attributes[f"{key}__{at}"] = item
                        with graph.inserting_before(node):
                            item = graph.create_node("get_attr", f"{key}__{at}")
                    items.append(item)
                node.update_arg(position, items)
                continue
            attributes[key] = list(value) if isinstance(value, (list, tuple)) else value
            with graph.inserting_before(node):
                node.update_arg(position, graph.create_node("get_attr", key))


def _is_size(op: str, argument: str, value: Any) -> bool:
    integer = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, (list, tuple)):
        sized = any(isinstance(v, int) and not isinstance(v, bool) for v in value)
        return sized and argument in ("size", "shape", "sizes", "split_sizes", "split_size",
                                      "normalized_shape")  # fmt: skip
    if not integer:
        return False
    return (
        argument in ("groups", "num_groups", "split_size")
        or (op == "slice" and argument in ("start", "end") and 0 < value < 2**62)
        or (op == "narrow" and argument in ("start", "length"))
    )


def _tie(model: nn.Module, form: nn.Module) -> None:
    """Let the graph hold the very parameters of the model's copy, tied where they were."""
    originals = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, nn.Parameter] = {}
    for name, _ in list(form.named_parameters(remove_duplicate=False)):
        original = originals.get(name)
        if original is None:
            continue
        path, _, leaf = name.rpartition(".")
        owner = form.get_submodule(path)
        copy = first.get(id(original))
        if copy is None:
            copy = nn.Parameter(original.detach().clone(), original.requires_grad)
            first[id(original)] = copy
        owner._parameters[leaf] = copy
    for name, buffer in list(form.named_buffers(remove_duplicate=False)):
        path, _, leaf = name.rpartition(".")
        form.get_submodule(path)._buffers[leaf] = buffer.detach().clone()


class _Following(fx.Interpreter):
    """Runs a graph module node by node and notes which recorded value each node made."""

    def __init__(self, form: GraphForm, recorder: Recorder) -> None:
        super().__init__(form)
        self.recorder = recorder
        self.made: dict[str, int] = {}

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, Tensor):
            self.made[node.name] = self.recorder.index_of(first)
        return result


def record_graph(form: GraphForm, inputs: Inputs) -> tuple[Trace, dict[str, int]]:
    """Which value of a recorded pass each node of the graph makes."""
    recorder = Recorder(form, inputs)
    follower = _Following(form, recorder)
    flat = torch.utils._pytree.tree_leaves((inputs.args, inputs.kwargs))
    with evaluating(form), recorder.watching():
        follower.run(*flat)
    trace = Trace(recorder.values, recorder.nodes, [], recorder.module_inputs)
    return trace, follower.made


def sizes_of_nodes(
    form: GraphForm, graph: Graph, sizes: ExpectedSizes, made: dict[str, int]
) -> dict[str, Any]:
    """New value of every size that a node of the graph holds."""
    found: dict[str, Any] = {}
    for node in form.graph.nodes:
        if node.op != "call_function":
            continue
        for position, value in enumerate(node.args):
            entries = value if isinstance(value, (list, tuple)) else [value]
            for at, entry in enumerate(entries):
                if isinstance(entry, fx.Node) and str(entry.target).startswith(PREFIX):
                    key = str(entry.target)
                    held = getattr(form, key)
                    index = at if isinstance(value, (list, tuple)) else None
                    new = _new_size(node, position, index, held, graph, sizes, made)
                    if new is not None and new != held:
                        found[key] = new
    return found


def _new_size(
    node: fx.Node,
    position: int,
    index: int | None,
    held: Any,
    graph: Graph,
    sizes: ExpectedSizes,
    made: dict[str, int],
) -> Any:
    schema = node.target._schema  # type: ignore[union-attr]
    op = schema.name.removeprefix("aten::").rstrip("_")
    source = node.args[0]
    before = made.get(source.name) if isinstance(source, fx.Node) else None
    after = made.get(node.name)
    if op in NORMS and before is not None:
        return list(sizes.shape(before)[-len(held) :])
    if op.startswith("conv") and before is not None:
        weight = made[str(node.args[1])]
        kernel = len(sizes.shape(weight)) - 2
        shared = after if "transpose" in op else before
        assert shared is not None
        return sizes.shape(shared)[-kernel - 1] // sizes.shape(weight)[1]
    if op == "group_norm" and before is not None:
        dense = graph.trace.values[before].shape[1]
        for split in graph.propagation.splits.values():
            reads = graph.trace.nodes[split.node].inputs[:1]
            if reads == [before] and split.choice:
                return held * sizes.shape(before)[1] // dense
        return held
    if op == "slice" and before is not None:
        dim = node.args[1] if len(node.args) > 1 else 0
        return _moved(graph, sizes, before, int(dim), held)  # type: ignore[arg-type]
    if op in ("split", "split_with_sizes", "unsafe_split", "chunk") and before is not None:
        return _parts(graph, sizes, node, held, after)
    if after is None:
        return None
    dense_shape, new_shape = graph.trace.values[after].shape, sizes.shape(after)
    if op == "unflatten":
        parts = len(node.args[2]) if index is not None else len(held)  # type: ignore[arg-type]
        dim = int(node.args[1]) % (len(dense_shape) - parts + 1)  # type: ignore[arg-type]
        if index is not None:
            return held if held == -1 else new_shape[dim + index]
        run = slice(dim, dim + parts)
        return [h if h == -1 else n for h, n in zip(held, new_shape[run], strict=True)]
    if index is not None:
        return new_shape[index] if held == dense_shape[index] else held
    if isinstance(held, list) and len(held) == len(dense_shape):
        return [n if h == d else h for h, d, n in zip(held, dense_shape, new_shape, strict=True)]
    return held


def _moved(graph: Graph, sizes: ExpectedSizes, value: int, dim: int, bound: int) -> int:
    """Where the end of a slice moves when indices before it are gone."""
    lane: Lane | None = graph.propagation.layout(value)[dim]
    if lane is None or lane.ids is None:
        return bound
    row = sizes.removed[graph.coupling.labels[lane.ids.reshape(-1, lane.size)[0]]]
    return bound - int(row[:bound].sum())


def _parts(graph: Graph, sizes: ExpectedSizes, node: fx.Node, held: Any, first: int | None) -> Any:
    """Sizes of the parts of a split, read off the recorded operation that made the first."""
    if first is None:
        return held
    for recorded in graph.trace.nodes:
        if recorded.outputs[:1] == [first]:
            dim = recorded.bound["dim"]
            parts = [sizes.shape(index)[dim] for index in recorded.outputs]
            return parts if isinstance(held, list) else parts[0]
    return held
