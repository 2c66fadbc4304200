"""Layers that make units, read units, or both, and compute only what is open."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.dynamic.flow import Choice
from secateur.dynamic.lanes import Lanes
from secateur.dynamic.links import Links, convolved, held

__all__ = ["GatedConv1d", "GatedConv2d", "GatedConv3d", "GatedLinear"]

# Chosen weights that are kept for the next time that they are chosen, in sizes of the weight.
KEPT = 2.0


class Mixer(nn.Module):
    """A convolution or linear layer: makes units, reads units, or both."""

    links: Links
    dim = 1

    def forward(self, x: Tensor) -> Tensor:
        links = self.links
        if links.skips:
            return self._skipping(x)
        if links.reads is not None:
            x = links.reads.masked(x, self.dim)
        if links.decides is not None:
            links.decides(x)
        y: Tensor = super().forward(x)
        return y

    def _skipping(self, x: Tensor) -> Tensor:
        links = self.links
        inner = None
        apart_in: list[tuple[Tensor, Choice]] = []
        if links.reads is not None and links.reads.skips:
            inner = links.reads.choice()
            apart_in = links.reads.buckets
            # Tensors that were scattered back are as wide as ever.
            if inner is not None and x.shape[self.dim] != len(inner):
                x = inner.take(x, self.dim)
            x = links.reads.settled(x, self.dim, inner, clean=links.decides is not None)
        elif links.reads is not None:
            x = links.reads.masked(x, self.dim)
        self._count(reading=True)
        if links.decides is not None:
            links.decides(x if inner is None else _scattered(x, inner, links.reads, self.dim))
        outer = links.makes.choice() if links.makes is not None and links.makes.skips else None
        apart_out = links.makes.buckets if links.makes is not None and links.makes.skips else []
        if apart_in or apart_out:
            return self._apart(x, apart_in, inner, apart_out, outer)
        y = self._compute(x, outer, inner)
        self._count(reading=False)
        if outer is None or links.makes is None or links.makes.choice(present=True) is not None:
            return y
        return _scattered(y, outer, links.makes, self.dim)

    def _apart(
        self,
        x: Tensor,
        apart_in: list[tuple[Tensor, Choice]],
        inner: Choice | None,
        apart_out: list[tuple[Tensor, Choice]],
        outer: Choice | None,
    ) -> Tensor:
        """Compute examples apart that have other units open, and put the results in place."""
        result: Tensor | None = None
        size = held(self)[0].shape[0]
        for rows, ins, outs in _meeting(apart_in, inner, apart_out, outer):
            part = x[rows]
            if apart_in and ins is not None:
                part = ins.take(part, self.dim)
            y = self._compute(part, outs, ins)
            if result is None:
                shape = list(y.shape)
                shape[0], shape[self.dim] = len(x), size
                result = y.new_zeros(shape)
            if outs is None:
                result[rows] = y
            elif self.dim == 1:
                result[rows[:, None], outs.index[None]] = y
            else:
                result[rows] = _put(y, outs, size)
        assert result is not None
        self._count(reading=False)
        makes = self.links.makes
        if outer is None or makes is None or makes.choice(present=True) is None:
            return result
        return outer.take(result, self.dim)

    def _count(self, *, reading: bool) -> None:
        """Let the code in between find as many units as there are."""
        for module, attribute, units, gate in self.links.counts:
            reads = self.links.reads is not None and gate in self.links.reads.gates
            if reads == reading:
                mask = None if reads or gate.flow is None or not gate.narrow else gate.flow.mask
                setattr(module, attribute, units if mask is None else int(mask.sum()))

    def _compute(self, x: Tensor, outer: Choice | None, inner: Choice | None) -> Tensor:
        weight, bias = self._chosen(outer, inner)
        return self._product(x, weight, bias)

    def _chosen(self, outer: Choice | None, inner: Choice | None) -> tuple[Tensor, Tensor | None]:
        if outer is None and inner is None:
            return held(self)
        weight, _ = held(self)
        if torch.is_grad_enabled() or weight.is_inference():
            return self._taken(outer, inner)
        key = (outer and outer.key, inner and inner.key, weight._version)
        kept: OrderedDict[Any, tuple[Tensor, Tensor | None]] = self.__dict__.setdefault(
            "_kept", OrderedDict()
        )
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        taken, bias = self._taken(outer, inner)
        # Kept as kernels want it; a view would be copied at every call.
        found = (taken.contiguous(), bias)
        if inner is not None or (outer is not None and not outer.prefix):
            kept[key] = found
            room = KEPT * weight.numel()
            while sum(each.numel() for each, _ in kept.values()) > room and len(kept) > 1:
                kept.popitem(last=False)
        return found

    def _taken(self, outer: Choice | None, inner: Choice | None) -> tuple[Tensor, Tensor | None]:
        weight, bias = held(self)
        if outer is not None:
            weight = outer.take(weight, 0)
            bias = None if bias is None else outer.take(bias, 0)
        if inner is not None:
            weight = inner.take(weight, 1)
        return weight, bias

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError


class _Convolving(Mixer):
    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolved(self, x, weight, bias, 1)


class GatedConv1d(_Convolving, nn.Conv1d):
    """A convolution that follows gates."""


class GatedConv2d(_Convolving, nn.Conv2d):
    """A convolution that follows gates."""


class GatedConv3d(_Convolving, nn.Conv3d):
    """A convolution that follows gates."""


class GatedLinear(Mixer, nn.Linear):
    """A linear layer that follows gates."""

    dim = -1

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)


def _scattered(y: Tensor, chosen: Choice, lanes: Lanes | None, dim: int) -> Tensor:
    """The chosen indices among all, the others zero."""
    assert lanes is not None
    shape = list(y.shape)
    shape[dim] = lanes.size
    return y.new_zeros(shape).index_copy_(dim, chosen.index.to(y.device), y)


def _put(y: Tensor, chosen: Choice, size: int) -> Tensor:
    return y.new_zeros(*y.shape[:-1], size).index_copy_(-1, chosen.index.to(y.device), y)


def _meeting(
    apart_in: list[tuple[Tensor, Choice]],
    inner: Choice | None,
    apart_out: list[tuple[Tensor, Choice]],
    outer: Choice | None,
) -> list[tuple[Tensor, Choice | None, Choice | None]]:
    """Examples that share what is open on both sides."""
    if not apart_in:
        return [(rows, inner, choice) for rows, choice in apart_out]
    if not apart_out:
        return [(rows, choice, outer) for rows, choice in apart_in]
    found: list[tuple[Tensor, Choice | None, Choice | None]] = []
    for rows, ins in apart_in:
        for others, outs in apart_out:
            both = rows[torch.isin(rows, others)]
            if len(both):
                found.append((both, ins, outs))
    return found
