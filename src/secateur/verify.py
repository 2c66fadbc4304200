"""Surgery parity: the smaller model against the dense one with the same indices masked.

The masked reference is the dense model with every removed entry of its parameters at zero. Where
an operation mixes the indices of a pruned dimension and a zero is not nothing to it (a layer
norm's statistics, a softmax, a mean over channels), the reference leaves the removed indices out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.graph.graph import Graph
from secateur.graph.lanes import Lane
from secateur.graph.propagate import Reduction
from secateur.graph.trace import Node, Ref
from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.plan import Plan
from secateur.replay import Replay
from secateur.scoped import scoped

__all__ = ["TOLERANCE", "Outputs", "difference", "masked_outputs", "outputs"]

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 5e-2}

QUOTIENTS = {"aten::div", "aten::_weight_norm_interface", "aten::mul"}

Outputs = dict[str, Tensor]


def outputs(
    model: nn.Module, inputs: Inputs, graph: Graph, precision: torch.dtype | None = None
) -> Outputs:
    """Every tensor that the model returns in eval mode.

    Parameters
    ----------
    precision : torch.dtype, optional
        What to calculate in, default the model's own; weights follow one layer at a time.
    """
    inputs = _converted(inputs, precision)

    def transform(name: str, data: Tensor) -> Tensor:
        return _in_precision(data, precision)

    with evaluating(model), scoped(model, graph.trace, transform):
        return {name: tensor.clone() for name, tensor in named_tensors(run(model, inputs))}


def masked_outputs(
    model: nn.Module,
    inputs: Inputs,
    graph: Graph,
    plan: Plan,
    removed: np.ndarray,
    precision: torch.dtype | None = None,
) -> Outputs:
    """What the dense model returns with the removed indices masked; the model is put back."""
    inputs = _converted(inputs, precision)

    def transform(name: str, data: Tensor) -> Tensor:
        dims = plan.removed.get(name) if name in graph.parameters else None
        values = _in_precision(data, precision)
        if dims:
            values = values.clone() if values is data else values
            for dim, indices in dims.items():
                values.index_fill_(dim, torch.tensor(indices, device=values.device), 0)
        return values

    with evaluating(model), scoped(model, graph.trace, transform):
        with _LeaveOut(graph, removed):
            result = plan.narrow_outputs(run(model, inputs))
        return {name: tensor.clone() for name, tensor in named_tensors(result)}


class _LeaveOut(Replay):
    """Leaves removed indices out of every operation that mixes them."""

    remedy = f"{Replay.remedy}, or pass verify=False"

    def __init__(self, graph: Graph, removed: np.ndarray) -> None:
        super().__init__(graph.trace)
        self.graph = graph
        self.kept = ~removed

    def carry_out(
        self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        reduction = self.graph.propagation.reductions.get(node.index)
        if reduction is None:
            return self._defined(node, func(*args, **kwargs))
        stays = [self._stays(lane) for _, _, lane in reduction.lanes]
        if all(bool(stay.all()) for stay in stays):
            return func(*args, **kwargs)
        if reduction.exact_with_zeros:
            return func(*self._zeroed(node, args, reduction, stays), **kwargs)
        return self._left_out(node, func, args, kwargs, reduction, stays)

    def _defined(self, node: Node, result: Any) -> Any:
        """Zeroed rows that a weight is divided by leave 0/0 behind, where nothing is kept."""
        p = self.graph.propagation
        if node.op in QUOTIENTS and all(p.static[index] for index in node.inputs):
            if isinstance(result, Tensor):
                return result.nan_to_num(nan=0.0) if bool(result.isnan().any()) else result
            return type(result)(t.nan_to_num(nan=0.0) for t in result)
        return result

    def _stays(self, lane: Lane) -> np.ndarray:
        return self.kept[self.graph.classes_of(lane)]

    def _zeroed(
        self, node: Node, args: tuple[Any, ...], reduction: Reduction, stays: list[np.ndarray]
    ) -> list[Any]:
        result = list(args)
        for (index, dim, lane), stay in zip(reduction.lanes, stays, strict=True):
            for position, argument in enumerate(node.args):
                if isinstance(argument, Ref) and argument.index == index:
                    tensor = result[position]
                    mask = _as_mask(stay, lane, dim, tensor)
                    result[position] = torch.where(mask, tensor, torch.zeros_like(tensor))
        return result

    def _left_out(
        self,
        node: Node,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reduction: Reduction,
        stays: list[np.ndarray],
    ) -> Any:
        """Run on the kept indices only, and put the results back in their places."""
        chosen = {
            self._key(lane): _positions(stay)
            for (_, _, lane), stay in zip(reduction.lanes, stays, strict=True)
        }
        smaller = list(args)
        for position, argument in enumerate(node.args):
            if isinstance(argument, Ref):
                for dim, lane, places in self._places(argument.index, chosen):
                    stay_there = _spread(places, lane, dim, smaller[position])
                    smaller[position] = smaller[position].gather(dim, stay_there)
        _resize_arguments(node, smaller)
        result = func(*smaller, **kwargs)
        # Written into a result of the operation itself: what follows may depend on its strides.
        whole = func(*args, **kwargs)
        single = isinstance(result, Tensor)
        listed = [result] if single else list(result)
        for position, index in enumerate(node.outputs):
            tensor = listed[position]
            for dim, lane, places in self._places(index, chosen):
                shape = list(tensor.shape)
                if dim < len(shape) and shape[dim] == places.shape[-1]:
                    shape[dim] = self.graph.trace.values[index].shape[dim]
                    index_there = _spread(places, lane, dim, tensor)
                    tensor = tensor.new_zeros(shape).scatter(dim, index_there, tensor)
            target = whole if single else whole[position]
            listed[position] = target.copy_(tensor) if target.shape == tensor.shape else tensor
        return listed[0] if single else type(result)(listed)

    def _key(self, lane: Lane) -> bytes:
        return self.graph.classes_of(lane).tobytes()

    def _places(self, index: int, chosen: dict[bytes, Tensor]) -> list[tuple[int, Lane, Tensor]]:
        """The dimensions of a value that lose indices here, and which indices stay."""
        found = []
        for dim, lane in enumerate(self.graph.propagation.layout(index)):
            if lane is not None and lane.ids is not None:
                places = chosen.get(self._key(lane))
                if places is not None:
                    found.append((dim, lane, places))
        return found


def _positions(stay: np.ndarray) -> Tensor:
    """Kept indices, ``[*rows, kept]``; every row keeps equally many."""
    rows = stay.reshape(-1, stay.shape[-1])
    places = np.stack([np.flatnonzero(row) for row in rows])
    return torch.from_numpy(places.reshape(*stay.shape[:-1], -1))


def _spread(places: Tensor, lane: Lane, dim: int, tensor: Tensor) -> Tensor:
    """Kept indices along one dimension, for every position of the other dimensions."""
    axes = [*lane.rows, dim]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    shape = list(tensor.shape)
    shape[dim] = places.shape[-1]
    view = [shape[at] if at in axes else 1 for at in range(len(shape))]
    return places.permute(order).reshape(view).expand(shape).to(tensor.device)


def _as_mask(stay: np.ndarray, lane: Lane, dim: int, tensor: Tensor) -> Tensor:
    axes = [*lane.rows, dim]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    shape = [tensor.shape[at] if at in axes else 1 for at in range(tensor.dim())]
    mask = np.ascontiguousarray(stay.transpose(order)).reshape(shape)
    return torch.from_numpy(mask).to(tensor.device)


def _resize_arguments(node: Node, args: list[Any]) -> None:
    """Norms take the size of what they normalise as an argument of its own."""
    x = args[0]
    if node.op in ("aten::native_layer_norm", "aten::_fused_rms_norm", "aten::rms_norm"):
        args[1] = list(x.shape[-len(args[1]) :])
    elif node.op == "aten::native_group_norm":
        args[4] = x.shape[1]


def difference(smaller: Outputs, masked: Outputs) -> tuple[float, float]:
    """Largest absolute difference, and the largest relative to each output's largest entry."""
    largest = relative = 0.0
    for name, reference in masked.items():
        found = smaller.get(name)
        if found is None or found.shape != reference.shape:
            return float("inf"), float("inf")
        if not reference.is_floating_point() or not reference.numel():
            continue
        # An infinite entry (a mask of scores, say) must be infinite in both.
        a, b = found.double(), reference.double()
        same = (a == b) | (a.isnan() & b.isnan())
        gap = torch.where(same, torch.zeros_like(a), (a - b).abs())
        worst = float(gap.max().nan_to_num(nan=float("inf")))
        finite = b.abs()[b.isfinite()]
        scale = float(finite.max()) if finite.numel() else 0.0
        largest = max(largest, worst)
        relative = max(relative, worst / max(scale, 1e-12))
    return largest, relative


def _in_precision(data: Tensor, precision: torch.dtype | None) -> Tensor:
    if precision is None or not data.is_floating_point():
        return data
    return data.to(precision)


def _converted(inputs: Inputs, precision: torch.dtype | None) -> Inputs:
    """A copy of the inputs for one pass, in the precision of the calculation."""
    return inputs.fresh().replaced(lambda name, tensor: _in_precision(tensor, precision))
