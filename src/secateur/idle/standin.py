"""What stands for "any number" while a model runs: in its inputs, and in what products make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from secateur.graph.trace import Node
from secateur.replay import matched

__all__ = ["FUSED_LAYER", "LOOK_UPS", "PRODUCTS", "Noise", "StandIn", "noise", "noise_like"]

LOOK_UPS = {"aten::embedding", "aten::_embedding_bag", "aten::_embedding_bag_forward_only"}
PRODUCTS = LOOK_UPS | {
    f"aten::{name}"
    for name in "convolution _convolution mkldnn_convolution mm bmm addmm baddbmm mv addmv dot "
    "vdot addr ger _trilinear".split()
}
FUSED_LAYER = "aten::mkldnn_rnn_layer"


class StandIn(ABC):
    """One way to stand for any number.

    Parameters
    ----------
    static : list of bool
        For every value, whether no input changes it.
    generator : torch.Generator
    """

    def __init__(self, static: list[bool], generator: torch.Generator) -> None:
        self.static = static
        self.generator = generator

    @abstractmethod
    def given(self, tensor: Tensor) -> Tensor:
        """What to give the model in place of an input."""

    @abstractmethod
    def product(
        self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensor]:
        """A product's result: the stand-in wherever an input can move it; and where that is."""

    def other(
        self,
        node: Node,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: dict[int, Tensor],
    ) -> Any:
        """The result of an operation that is no product."""
        return func(*args, **kwargs)


class Noise(StandIn):
    """Numbers of all sizes, for code that decides by what it reads.

    Parameters
    ----------
    sign : float
        1 or -1; two passes of one generator's seed see every number with both signs.
    """

    def __init__(self, static: list[bool], generator: torch.Generator, sign: float) -> None:
        super().__init__(static, generator)
        self.sign = sign

    def given(self, tensor: Tensor) -> Tensor:
        return noise(tensor, self.generator, self.sign)

    def product(
        self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensor]:
        result = func(*args, **kwargs)
        single = isinstance(result, Tensor)
        first = result if single else result[0]
        if node.op in LOOK_UPS:
            still = torch.zeros_like(first)
            moves = (args[0] != 0).any(0).expand(first.shape)
        else:
            still = func(*(self._emptied(a, b) for a, b in zip(node.args, args, strict=True)),
                         **kwargs)  # fmt: skip
            moves = first != still
        noisy = torch.where(moves, self.given(first), still)
        return (noisy if single else type(result)((noisy, *result[1:]))), moves

    def _emptied(self, recorded: Any, given: Any) -> Any:
        """A factor that inputs change at zero; weights and biases as they are."""
        found = list(matched(recorded, given)) if isinstance(given, Tensor) else []
        if not found or self.static[found[0][0]] or not given.is_floating_point():
            return given
        return torch.zeros_like(given)


def noise(tensor: Tensor, generator: torch.Generator, sign: float) -> Tensor:
    """Numbers of both signs and all sizes, from far below one to thousands."""
    if not tensor.is_floating_point():
        return tensor
    drawn = torch.randn(tensor.shape, generator=generator)
    return (drawn * drawn.square().mul_(100 * sign)).to(tensor.device, tensor.dtype)


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise in place of a floating tensor; others as they are."""
    if not tensor.is_floating_point():
        return tensor
    drawn = torch.randn(tensor.shape, generator=generator)
    return drawn.to(tensor.device, tensor.dtype).requires_grad_(tensor.requires_grad)
