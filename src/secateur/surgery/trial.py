"""A trial run of the pruned model, before anything real is touched.

The model runs with weights that have their new shapes and take no memory. Every operation is
compared with the recorded forward pass: does it run, and does its result have the size that the
graph predicts? Where a module's own attribute holds an old size, the attribute follows and the
module is run again. What no attribute explains becomes a constraint, and the plan is made anew.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import first_line
from secateur.graph.graph import Graph
from secateur.graph.trace import named_state
from secateur.inputs import Inputs, evaluating
from secateur.surgery.attempt import Attempt, Stop
from secateur.surgery.compare import Runner
from secateur.surgery.expected import ExpectedSizes
from secateur.surgery.follow import Follower
from secateur.surgery.transaction import Snapshot

__all__ = ["attempt"]


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
        runner = Runner(model, inputs, sizes)
        follower = Follower(runner, modules)
        with evaluating(model), follower.watching(), runner.watching():
            try:
                model(*inputs.args, **inputs.kwargs)
            except Stop as stop:
                return follower.result(stop)
            except Exception as error:  # the model's code may raise anything
                return follower.result(Stop(runner.position, first_line(error)))
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
