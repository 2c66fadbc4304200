"""What can be other than zero in a model, for any input: seen in passes on noise.

Which features are zero for every input follows from the weights. To find it for any mix of
operations, the model runs on numbers that stand for "anything": whatever a product of the input
can be is replaced by noise of all sizes and both signs, and what no input can move stays as it is.
A ReLU that no example happens to open lets noise through; a filter of zeros makes none.
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
from secateur.inputs import Inputs, evaluating, run
from secateur.replay import Replay, matched

__all__ = ["Evidence", "gather", "noise_like", "occupied"]

# Passes on noise; each second one turns every sign around.
PASSES = 8
LOOK_UPS = {"aten::embedding", "aten::_embedding_bag", "aten::_embedding_bag_forward_only"}
PRODUCTS = LOOK_UPS | {
    f"aten::{name}"
    for name in "convolution _convolution mkldnn_convolution mm bmm addmm baddbmm mv addmv dot "
    "vdot addr ger _trilinear".split()
}

FUSED_LAYER = "aten::mkldnn_rnn_layer"


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
    """Watch the model run: once on the inputs themselves, then on noise.

    Where the model's code cannot run on noise, nothing but weights counts as zero.
    """
    evidence = Evidence()
    with evaluating(model):
        with _Watch(graph, evidence, None, 1.0):
            run(model, inputs.fresh())
        try:
            for turn in range(PASSES):
                generator = torch.Generator().manual_seed(turn // 2)
                sign = (-1.0) ** turn
                noisy = inputs.fresh().replaced(
                    lambda name, given: _noise(given, generator, sign)  # noqa: B023
                )
                with _Watch(graph, evidence, generator, sign):
                    run(model, noisy)
                if not any(flags.any() for flags in evidence.stuck.values()):
                    break
        except InputError:
            for flags in evidence.used.values():
                flags[...] = True
    return evidence


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise in place of a floating tensor; others as they are."""
    if not tensor.is_floating_point():
        return tensor
    drawn = torch.randn(tensor.shape, generator=generator)
    return drawn.to(tensor.device, tensor.dtype).requires_grad_(tensor.requires_grad)


def _noise(tensor: Tensor, generator: torch.Generator, sign: float) -> Tensor:
    """Numbers of both signs and all sizes, from far below one to thousands."""
    if not tensor.is_floating_point():
        return tensor
    drawn = torch.randn(tensor.shape, generator=generator)
    return (drawn * drawn.square().mul_(100 * sign)).to(tensor.device, tensor.dtype)


class _Watch(Replay):
    """Notes what products and sums read; with a generator, makes noise of what they return."""

    def __init__(
        self, graph: Graph, evidence: Evidence, generator: torch.Generator | None, sign: float
    ) -> None:
        super().__init__(graph.trace)
        self.p = graph.propagation
        self.evidence = evidence
        self.generator = generator
        self.sign = sign

    def carry_out(
        self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = dict(matched((node.args, node.kwargs), (args, kwargs)))
        result = func(*args, **kwargs)
        if self.generator is not None and self._makes_anything(node, given):
            result = self._anything(node, func, args, kwargs, result)
        elif self.generator is not None and node.op == FUSED_LAYER:
            # Its gates never close for good, so a unit that says nothing has no weights to.
            self._still(node.outputs[0], result[0] != 0)
        scale = self._scale(node)
        if scale is not None:
            self._still(scale, given[scale] != 0)
        if node.index in self.p.contractions or node.index in self.p.reductions:
            made = result if isinstance(result, (tuple, list)) else (result,)
            given.update(zip(node.outputs, made, strict=False))
            self._note(node, given)
        return result

    def _makes_anything(self, node: Node, given: dict[int, Tensor]) -> bool:
        return node.op in PRODUCTS and not all(self.p.static[index] for index in given)

    def _anything(
        self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        """Noise wherever an input can move the result, and the result itself elsewhere."""
        single = isinstance(result, Tensor)
        first = result if single else result[0]
        if node.op in LOOK_UPS:
            table = args[0]
            still = torch.zeros_like(first)
            moves = (table != 0).any(0).expand(first.shape)
        else:
            still = func(*(self._emptied(a, b) for a, b in zip(node.args, args, strict=True)),
                         **kwargs)  # fmt: skip
            moves = first != still
        assert self.generator is not None
        noisy = torch.where(moves, _noise(first, self.generator, self.sign), still)
        self._still(node.outputs[0], moves)
        return noisy if single else type(result)((noisy, *result[1:]))

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

    def _emptied(self, recorded: Any, given: Any) -> Any:
        """A factor that inputs change at zero; weights and biases as they are."""
        found = list(matched(recorded, given)) if isinstance(given, Tensor) else []
        if not found or self.p.static[found[0][0]] or not given.is_floating_point():
            return given
        return torch.zeros_like(given)

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
