"""What can be other than zero in a model, for any input: seen in passes that stand for all.

Which features are zero for every input follows from the weights. To find it for any mix of
operations, the model runs once on marks that stand for "any number": whatever a product of the
input can be is marked, and what no input can move stays as it is. A ReLU that no example happens
to open lets marks through; a filter of zeros makes none. Code that decides by the numbers it
reads has no use for marks; for it, noise of all sizes and both signs stands for any number.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.graph.lanes import Lane
from secateur.graph.trace import Node, Ref
from secateur.idle.anything import Anything
from secateur.idle.standin import FUSED_LAYER, PRODUCTS, Noise, StandIn
from secateur.inputs import Inputs, evaluating, run
from secateur.replay import Replay, matched

__all__ = ["Evidence", "gather", "occupied"]

# Passes on noise, where marks get lost; each second one turns every sign around.
PASSES = 4


@dataclasses.dataclass
class Evidence:
    """What passes of the model showed of the values that its products and sums read.

    Attributes
    ----------
    used : dict
        ``(operation, value, dim)`` -> for every index of the lane there, in the lane's shape,
        whether it was anything but zero at any time.
    static : dict
        ``(operation, value)`` -> the tensor, for factors that no input changes: weights.
    stuck : dict
        ``(value, dim)`` of what a product makes -> for every index of the lane there, whether no
        input moves it; of a scale, whether it is zero.
    """

    used: dict[tuple[int, int, int], np.ndarray] = dataclasses.field(default_factory=dict)
    static: dict[tuple[int, int], Tensor] = dataclasses.field(default_factory=dict)
    stuck: dict[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)


def gather(model: nn.Module, inputs: Inputs, graph: Graph) -> Evidence:
    """Watch the model run on what stands for any number.

    Where the model's code runs on neither marks nor noise, nothing but weights counts as zero.
    """
    evidence = Evidence()
    static = graph.propagation.static

    def watch(standin: StandIn) -> None:
        given = inputs.fresh().replaced(lambda name, tensor: standin.given(tensor))
        with _Watch(graph, evidence, standin):
            run(model, given)

    with evaluating(model):
        try:
            watch(Anything(static, torch.Generator().manual_seed(0)))
            return evidence
        except InputError:
            pass
        try:
            for turn in range(PASSES):
                generator = torch.Generator().manual_seed(turn // 2)
                watch(Noise(static, generator, (-1.0) ** turn))
                if not any(flags.any() for flags in evidence.stuck.values()):
                    break
        except InputError:
            with _Watch(graph, evidence, None):
                run(model, inputs.fresh())
            for flags in evidence.used.values():
                flags[...] = True
    return evidence


class _Watch(Replay):
    """Notes what products and sums read, with a stand-in for what inputs can move."""

    def __init__(self, graph: Graph, evidence: Evidence, standin: StandIn | None) -> None:
        super().__init__(graph.trace)
        self.p = graph.propagation
        self.evidence = evidence
        self.standin = standin

    def carry_out(
        self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = dict(matched((node.args, node.kwargs), (args, kwargs)))
        scale = self._scale(node)
        if scale is not None:
            self._still(scale, given[scale] != 0)
        if self.standin is None:
            result = func(*args, **kwargs)
        elif self._makes_anything(node, given):
            result, moves = self.standin.product(node, func, args, kwargs)
            self._still(node.outputs[0], moves)
        else:
            result = self.standin.other(node, func, args, kwargs, given)
            if node.op == FUSED_LAYER:
                # Its gates never close for good, so a unit that says nothing has no weights to.
                self._still(node.outputs[0], result[0] != 0)
        if node.index in self.p.contractions or node.index in self.p.reductions:
            # A recurrent layer reads what it made one step before.
            made = result if isinstance(result, (tuple, list)) else (result,)
            given.update(zip(node.outputs, made, strict=False))
            self._note(node, given)
        return result

    def _makes_anything(self, node: Node, given: dict[int, Tensor]) -> bool:
        return node.op in PRODUCTS and not all(self.p.static[index] for index in given)

    def _still(self, index: int, moves: Tensor) -> None:
        for dim, lane in enumerate(self.p.layout(index)):
            if lane is not None and lane.ids is not None:
                stuck = ~occupied(moves, lane, dim)
                known = self.evidence.stuck.get((index, dim), stuck)
                self.evidence.stuck[index, dim] = known & stuck

    def _scale(self, node: Node) -> int | None:
        """The static factor of an element-wise product: a norm's weight, a layer's scale."""
        if "norm" in node.op and isinstance(node.bound.get("weight"), Ref):
            return int(node.bound["weight"].index)
        factors = node.inputs if node.op == "aten::mul" else []
        static = [index for index in factors if self.p.static[index]]
        return static[0] if len(static) == 1 < len(factors) else None

    def _note(self, node: Node, given: dict[int, Tensor]) -> None:
        read = [place for factors in self.p.contractions.get(node.index, ()) for place in factors]
        reduction = self.p.reductions.get(node.index)
        if reduction is not None and reduction.exact_with_zeros:
            read += [(index, dim) for index, dim, _ in reduction.lanes]
        for index, dim in read:
            lane = self.p.layout(index)[dim]
            tensor = given[index]
            if self.p.static[index]:
                self.evidence.static[node.index, index] = tensor.detach()
            elif lane is not None and lane.ids is not None:
                key = (node.index, index, dim)
                seen = occupied(tensor.detach() != 0, lane, dim)
                self.evidence.used[key] = self.evidence.used.get(key, False) | seen


def occupied(flags: Tensor, lane: Lane, dim: int) -> np.ndarray:
    """Whether a flag is set anywhere at each index of a lane, in the lane's shape.

    Examples
    --------
    >>> lane = Lane(3, np.arange(3))
    >>> occupied(torch.tensor([[False, True, False], [True, False, False]]), lane, 1)
    array([ True,  True, False])
    """
    axes = [*lane.rows, dim]
    others = [at for at in range(flags.dim()) if at not in axes]
    # As bytes, which PyTorch reduces faster than truth values.
    found = flags.view(torch.uint8).amax(others).bool() if others else flags
    left = sorted(axes)
    return found.permute([left.index(at) for at in axes]).cpu().numpy().copy()
