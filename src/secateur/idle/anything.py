"""A mark for "could be any number", carried through a model's operations in a single pass.

The mark is NaN, since arithmetic keeps it: whatever an input can move turns into NaN, and what no
input can move keeps its value. Products do without arithmetic on marks. They count the terms
that are not zero, so that none is lost to a shut ReLU, to rounding, or to terms that cancel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.graph.trace import Node, Ref
from secateur.idle.standin import FUSED_LAYER, LOOK_UPS, StandIn, noise

__all__ = ["Anything", "MarkLost"]

# Where a product has a term that is added, such as a bias.
ADDED = {
    **dict.fromkeys(("aten::convolution", "aten::_convolution", "aten::mkldnn_convolution"), 2),
    **dict.fromkeys(("aten::addmm", "aten::addmv", "aten::addr", "aten::baddbmm"), 0),
}
RECURRENT = {
    FUSED_LAYER,
    *(f"aten::{name}" for name in
      "_cudnn_rnn miopen_rnn _thnn_fused_lstm_cell _thnn_fused_gru_cell".split()),
}  # fmt: skip
# Numbers that take no notice of a NaN.
BLIND = {f"aten::{name}" for name in "nan_to_num nansum nanmedian fmax fmin".split()}
ATTENTION = "scaled_dot_product"


class MarkLost(InputError):
    """An operation decides by the numbers that it reads."""


class Anything(StandIn):
    """Replaces what inputs can move by NaN."""

    def given(self, tensor: Tensor) -> Tensor:
        return torch.full_like(tensor, math.nan) if _numbers(tensor) else tensor

    def product(
        self, node: Node, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensor]:
        if node.op in LOOK_UPS:
            result = func(*args, **kwargs)
            first = result if isinstance(result, Tensor) else result[0]
            moves = (args[0] != 0).any(0).expand(first.shape)
            filled = torch.where(moves, math.nan, torch.zeros_like(first))
            return (filled if first is result else type(result)((filled, *result[1:]))), moves
        added = ADDED.get(node.op)
        factors = [
            _there(argument, at != added) if isinstance(argument, Tensor) else argument
            for at, argument in enumerate(args)
        ]
        count = func(*factors, **kwargs)
        still = torch.zeros_like(count)
        if added is not None and args[added] is not None:
            term = args[added]
            if "convolution" in node.op:
                term = term.reshape(-1, *[1] * (count.dim() - 2))
            still += term * kwargs.get("beta", 1)
        filled = torch.where(count != 0, math.nan, still)
        return filled, filled.isnan()

    def other(
        self,
        node: Node,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: dict[int, Tensor],
    ) -> Any:
        if node.op in RECURRENT:
            return self._recurrent(func, args, kwargs)
        # Before the operation, which may write into what it reads.
        silent = _silent(node, args)
        result = func(*args, **kwargs)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        self._check(node, args, kwargs, result)
        if silent is not None:
            first.masked_fill_(silent, 0)
        if ATTENTION in node.op:
            return type(result)((_attended(first, args[2]), *result[1:]))
        if "norm" in node.op and isinstance(node.bound.get("weight"), Ref):
            scaled = _scaled(node, first, given)
            return scaled if first is result else type(result)((scaled, *result[1:]))
        return result

    def _recurrent(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """On noise: a gate never closes for good, so what stays zero has no weights."""

        def plain(argument: Any) -> Any:
            if isinstance(argument, (list, tuple)):
                return type(argument)(plain(item) for item in argument)
            if isinstance(argument, Tensor) and _numbers(argument):
                return torch.where(argument.isnan(), noise(argument, self.generator, 1.0), argument)
            return argument

        result = func(*plain(args), **kwargs)
        return type(result)(
            torch.where(part != 0, math.nan, part)
            if isinstance(part, Tensor) and _numbers(part)
            else part
            for part in result
        )

    def _check(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Truth values and integers cannot say that they could be any."""
        parts = result if isinstance(result, (tuple, list)) else (result,)
        carried = all(isinstance(part, Tensor) and _numbers(part) for part in parts)
        if (carried and node.op not in BLIND) or "pool" in node.op or ATTENTION in node.op:
            return
        listed = [*args, *kwargs.values()]
        listed += [item for held in listed if isinstance(held, (list, tuple)) for item in held]
        if any(bool(t.isnan().any()) for t in listed if isinstance(t, Tensor) and _numbers(t)):
            raise MarkLost(f"{node.op} decides by the numbers that it reads")


def _numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _there(tensor: Tensor, counts: bool) -> Tensor:
    """One where a factor is not zero; for what is only added, nothing."""
    return (tensor != 0).to(tensor.dtype) if counts else torch.zeros_like(tensor)


def _silent(node: Node, args: tuple[Any, ...]) -> Tensor | None:
    """Where a zero makes the result zero, whatever the other factor is."""
    if node.op == "aten::glu":
        dim = args[1] if len(args) > 1 else -1
        silent = args[0].chunk(2, dim)[0] == 0
    elif node.op == "aten::div":
        silent = args[0] == 0 if isinstance(args[0], Tensor) else None
    elif node.op == "aten::mul":
        tensors = [factor for factor in args[:2] if isinstance(factor, Tensor)]
        silent = tensors[0] == 0
        for factor in tensors[1:]:
            silent = silent | (factor == 0)
    else:
        return None
    return silent


def _attended(result: Tensor, value: Tensor) -> Tensor:
    """A mix of values is zero where all that it mixes are."""
    found = (value != 0).amax(-2, keepdim=True)
    if found.dim() > 2 and found.shape[-3] not in (1, result.shape[-3]):
        found = found.repeat_interleave(result.shape[-3] // found.shape[-3], -3)
    return torch.where(found, math.nan, torch.zeros_like(result))


def _scaled(node: Node, result: Tensor, given: dict[int, Tensor]) -> Tensor:
    """Where a norm's scale is zero, its shift is all that is left."""
    bound = node.bound
    scale, shift = given[bound["weight"].index], bound.get("bias")
    if bool(scale.all()):
        return result
    left = given[shift.index] if isinstance(shift, Ref) else torch.zeros_like(scale)
    if "batch" in node.op or "group" in node.op:
        shape = [-1, *[1] * (result.dim() - 2)]
        scale, left = scale.reshape(shape), left.reshape(shape)
    return torch.where(scale == 0, left.to(result.dtype), result)
