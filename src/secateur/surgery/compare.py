"""Comparing what a model runs with what was recorded of it, operation by operation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.errors import first_line
from secateur.graph.hollow import Hollow
from secateur.graph.trace import INCIDENTAL, Node, Recorder, canonical
from secateur.inputs import Inputs
from secateur.surgery.attempt import ScaleChange, Stop
from secateur.surgery.expected import ExpectedSizes

__all__ = ["Runner", "sizes_in"]

SCALING = {"aten::mul": -1, "aten::div": 1}


class Runner(Recorder):
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
        except Exception as error:  # the model's operations may raise anything
            raise Stop(at, first_line(error), called=sizes_in(node.args)) from error
        flat = result if isinstance(result, (tuple, list)) else (result,)
        found = [tuple(t.shape) for t in flat if isinstance(t, Tensor)]
        wanted = [self.sizes.shape(index) for index in dense.outputs]
        wanted = [self._free(*each) for each in zip(dense.outputs, wanted, found, strict=False)]
        if found != wanted:
            wrong = [
                (output, dim)
                for output, (a, b) in enumerate(zip(found, wanted, strict=False))
                for dim, (left, right) in enumerate(zip(a, b, strict=False))
                if left != right
            ]
            raise Stop(at, f"it returns {found} where {wanted} is due", wrong, sizes_in(node.args))
        self._compare_scales(at, dense, node)
        self.position += 1
        return result

    def _free(self, index: int, due: tuple[int, ...], got: tuple[int, ...]) -> tuple[int, ...]:
        """What is due, where anything depends on it: a blank that nothing meets has any size."""
        layout = self.sizes.graph.propagation.layout(index)
        if len(due) != len(got):
            return due
        return tuple(
            b if lane is not None and lane.ids is None else a
            for a, b, lane in zip(due, got, layout, strict=True)
        )

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
