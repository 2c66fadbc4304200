"""Capturing a model's graph with torch.export, with a free batch size where its code allows one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import InputError, first_line
from secateur.inputs import Inputs
from secateur.quiet import quiet

__all__ = ["Expected", "attempts", "capture", "expected_inputs"]

Expected = dict[str, Any]
"""By placeholder: the shape of a tensor, as a tuple, or a value that the graph holds."""


def attempts(inputs: Inputs) -> list[tuple[Inputs, bool]]:
    """Inputs to capture on, each with whether the batch is to stay free, the best first.

    A size of one is captured as a constant, so that a batch of one is doubled.
    """
    leading = [t.shape[0] for t in _tensors(inputs) if t.dim()]
    if not leading or 0 in leading:
        return [(inputs, False)]
    if leading[0] > 1:
        return [(inputs, True), (inputs, False)]

    def doubled(value: Any) -> Any:
        batched = isinstance(value, Tensor) and value.dim() and value.shape[0] == 1
        return torch.cat([value, value]) if batched else value

    args, kwargs = pytree.tree_map(doubled, (inputs.args, inputs.kwargs))
    return [(Inputs(args, kwargs), True), (inputs, False)]


def capture(model: nn.Module, inputs: Inputs, free: bool) -> torch.export.ExportedProgram:
    """Export the model as it is, in the mode that it is in.

    Raises
    ------
    InputError
        When torch.export cannot capture the model; says why.
    """
    inputs = inputs.fresh()
    shapes = torch.export.ShapesCollection()
    for tensor in _tensors(inputs):
        if tensor.dim() and tensor.shape[0] > 1 and free:
            shapes[tensor] = {0: torch.export.Dim.AUTO}
    given: Any = shapes.dynamic_shapes(model, inputs.args, inputs.kwargs) if free else None
    try:
        with quiet():
            return torch.export.export(
                model, inputs.args, inputs.kwargs, dynamic_shapes=given, strict=False
            )
    except Exception as error:  # torch.export raises what its passes raise
        raise InputError(
            f"torch.export cannot capture the model ({type(error).__name__}: "
            f"{first_line(error)}); form='python' does not need it"
        ) from error


def expected_inputs(exported: torch.export.ExportedProgram) -> Expected:
    """What the graph takes: the shape of every tensor, None for a size that is free, and values."""
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    found: Expected = {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind is not torch.export.graph_signature.InputKind.USER_INPUT:
            continue
        name = spec.arg.name
        value = nodes[name].meta.get("val") if name in nodes else None
        if isinstance(value, Tensor):
            found[name] = tuple(map(_fixed, value.shape))
        elif isinstance(spec.arg, torch.export.graph_signature.ConstantArgument):
            found[name] = spec.arg.value
    return found


def _fixed(size: Any) -> int | None:
    """A size that is one number, also where the model's code allowed a symbol no other."""
    return size if isinstance(size, int) else size.node.maybe_as_int()


def _tensors(inputs: Inputs) -> list[Tensor]:
    leaves = pytree.tree_leaves((inputs.args, inputs.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
