"""Turning what a captured graph holds as constants into attributes that can change."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.surgery.capture import Expected
from secateur.surgery.graph_calls import check_inputs, count_batch

__all__ = ["PREFIX", "lift", "named", "operation"]

PREFIX = "size_of_"
MODES = ("train", "training", "use_input_stats")
NORMS = ("batch_norm", "instance_norm")
SIZES = ("size", "shape", "sizes", "split_sizes", "split_size", "normalized_shape")
# Asserted of the example inputs: the batch size, the dtype and the device may change.
GUARDS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size",
          "sym_constrain_range")  # fmt: skip
OPEN = 2**62


def operation(node: fx.Node) -> str:
    """An operation's name without overload and in-place mark; empty for what is none.

    Examples
    --------
    >>> import torch
    >>> operation(fx.Graph().call_function(torch.ops.aten.relu_.default))
    'relu'
    """
    schema = getattr(node.target, "_schema", None)
    return schema.name.removeprefix("aten::").rstrip("_") if schema is not None else ""


def named(node: fx.Node) -> dict[str, Any]:
    """An operation's positional arguments by their names, in order; empty for what is none."""
    schema = getattr(node.target, "_schema", None)
    listed = schema.arguments if schema is not None else ()
    return {argument.name: value for argument, value in zip(listed, node.args, strict=False)}


def lift(model: nn.Module, source: fx.GraphModule, expected: Expected) -> None:
    """Make every size, mode and momentum that the graph holds an attribute of the module.

    Parameters
    ----------
    model : torch.nn.Module
        What was captured, in eval mode.
    source : GraphModule
        Its graph; changed in place.
    expected : dict
        What the inputs must be, by placeholder.
    """
    graph = source.graph
    for node in list(graph.nodes):
        # Guards would refuse other batches; `check_inputs` refuses what must be refused.
        guard = node.op == "call_function" and any(name in str(node.target) for name in GUARDS)
        if guard or node.op == "call_module":
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "call_function":
            _lift_mode(model, source, node)
            _lift_sizes(source, node)
    _check_at_entry(source, expected)


def _check_at_entry(source: fx.GraphModule, expected: Expected) -> None:
    graph = source.graph
    taken = [node for node in graph.nodes if node.op == "placeholder" and node.name in expected]
    if taken:
        names = tuple(node.name for node in taken)
        last = [node for node in graph.nodes if node.op == "placeholder"][-1]
        held = [expected[name] for name in names]
        lists = [list(entry) if isinstance(entry, tuple) else entry for entry in held]
        setattr(source, f"{PREFIX}inputs", lists)
        with graph.inserting_before(last.next):
            wanted = graph.create_node("get_attr", f"{PREFIX}inputs")
            graph.call_function(check_inputs, (tuple(taken), names, wanted))


def _lift_mode(model: nn.Module, source: fx.GraphModule, node: fx.Node) -> None:
    """Let an operation follow train() and eval() of the module whose code calls it.

    One that trains even in eval mode always does. A norm that its module's code keeps from
    training (frozen statistics) is left as it is.
    """
    given = list(named(node).items())
    flag = next((at for at, (name, _) in enumerate(given) if name in MODES), None)
    if flag is None or given[flag][1] is not False:
        return
    path = _path(model, node)
    owner = model.get_submodule(path)
    op = operation(node)
    if op in NORMS and not isinstance(owner, _NormBase):
        return
    holder = _holder(source, path)
    where = f"{path}." if path else ""
    with source.graph.inserting_before(node):
        training = source.graph.create_node("get_attr", f"{where}training")
        node.update_arg(flag, training)
        counted = isinstance(owner, _NormBase) and owner.num_batches_tracked is not None
        if op == "batch_norm" and counted and hasattr(holder, "num_batches_tracked"):
            holder.momentum = owner.momentum
            batches = source.graph.create_node("get_attr", f"{where}num_batches_tracked")
            momentum = source.graph.create_node("get_attr", f"{where}momentum")
            call = source.graph.call_function(count_batch, (training, batches, momentum))
            node.update_arg([name for name, _ in given].index("momentum"), call)


def _path(model: nn.Module, node: fx.Node) -> str:
    """First path of the module whose code calls an operation; the model's own where unknown."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]).partition("@")[0] if stack else ""
    try:
        owner = model.get_submodule(path)
    except AttributeError:
        return ""
    return next(name for name, module in model.named_modules() if module is owner)


def _holder(source: nn.Module, path: str) -> nn.Module:
    """The submodule at a path, made where nothing needed one so far (a dropout has no tensors)."""
    module = source
    for name in path.split(".") if path else ():
        if not isinstance(getattr(module, name, None), nn.Module):
            module.add_module(name, nn.Module())
        module = getattr(module, name)
    return module


def _lift_sizes(source: fx.GraphModule, node: fx.Node) -> None:
    graph, op = source.graph, operation(node)
    for position, (name, value) in enumerate(named(node).items()):
        if not _is_size(op, name, value):
            continue
        key = f"{PREFIX}{node.name}__{position}"
        with graph.inserting_before(node):
            if isinstance(value, (list, tuple)) and any(isinstance(v, fx.Node) for v in value):
                items: list[Any] = list(value)
                for at, item in enumerate(value):
                    if isinstance(item, int):
                        setattr(source, f"{key}__{at}", item)
                        items[at] = graph.create_node("get_attr", f"{key}__{at}")
                node.update_arg(position, items)
            else:
                held = list(value) if isinstance(value, (list, tuple)) else value
                setattr(source, key, held)
                node.update_arg(position, graph.create_node("get_attr", key))


def _is_size(op: str, argument: str, value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return argument in SIZES and any(_integer(item) for item in value)
    if not _integer(value):
        return False
    return (
        argument in ("groups", "num_groups", "split_size")
        or (op == "slice" and argument in ("start", "end") and value != 0 and abs(value) < OPEN)
        or (op == "narrow" and argument in ("start", "length"))
    )


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, (bool, Tensor))
