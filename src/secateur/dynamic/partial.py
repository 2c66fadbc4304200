"""Convolutions and batch norms that follow a gate in space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.dynamic.cgnet import PartialSumGate
from secateur.dynamic.links import convolved

__all__ = ["PairedNorm2d", "PartialConv2d", "attach_partial", "detach_partial"]


class PartialConv2d(nn.Conv2d):
    """A convolution that adds the rest of its input channels only where its gate is open."""

    @property
    def spatial(self) -> PartialSumGate:
        gate: PartialSumGate = self.__dict__["spatial_gate"]
        return gate

    def forward(self, x: Tensor) -> Tensor:
        gate, first = self.spatial, self.__dict__["first"]
        base = convolved(self, x[:, :first], self.weight[:, :first], self.bias, 1)
        decision = gate(base)
        opened = gate.spread(decision, base.shape).to(base.dtype)
        if gate.skips and gate.policy.sparse(float(decision.open.mean())):
            return self._add_where(base, x[:, first:], self.weight[:, first:], opened)
        full = base + convolved(self, x[:, first:], self.weight[:, first:], None, 1)
        gate.parts = (base, full) if self.training else None
        return torch.where(opened.detach() > 0, full, base) + (full - base).detach() * (
            opened - opened.detach()
        )

    def _add_where(self, base: Tensor, x: Tensor, weight: Tensor, opened: Tensor) -> Tensor:
        """Sum up the rest at open positions alone, gathered from the windows of the input."""
        height, width = self.kernel_size
        vertical, horizontal = self.dilation
        x = self._padded(x)
        # Windows without a copy: [n, c, h', w', kh, kw].
        n, c = x.shape[:2]
        strides = x.stride()
        windows = x.as_strided(
            (n, base.shape[2], base.shape[3], c, height, width),
            (
                strides[0], strides[2] * self.stride[0], strides[3] * self.stride[1],
                strides[1], strides[2] * vertical, strides[3] * horizontal,
            ),
        )  # fmt: skip
        groups = opened.shape[1] if self.spatial.groups > 1 else 1
        step = base.shape[1] // self.spatial.groups
        for group in range(self.spatial.groups):
            channels = slice(group * step, (group + 1) * step)
            where = opened[:, group * step if groups > 1 else 0] > 0
            at = where.nonzero(as_tuple=True)
            patches = windows[at].flatten(1)
            rest = patches @ weight[channels].flatten(1).T
            base[:, channels][at[0], :, at[1], at[2]] += rest
        return base

    def _padded(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros":
            return functional.pad(x, self._reversed_padding_repeated_twice, self.padding_mode)
        return functional.pad(x, self._reversed_padding_repeated_twice)


class PairedNorm2d(nn.BatchNorm2d):
    """A batch norm that has a second one for positions where only a part was summed up."""

    def forward(self, x: Tensor) -> Tensor:
        gate: PartialSumGate = self.__dict__["spatial_gate"]
        assert gate.decision is not None and gate.base_norm is not None
        opened = gate.spread(gate.decision, x.shape).to(x.dtype)
        base, full = (x, x) if gate.parts is None else gate.parts
        gate.parts = None
        whole, part = super().forward(full), gate.base_norm(base)
        mixed = torch.where(opened.detach() > 0, whole, part)
        if not opened.requires_grad:
            return mixed
        return mixed + (whole - part).detach() * (opened - opened.detach())


def attach_partial(
    model: nn.Module, conv: nn.Module, norm: nn.Module | None, gate: PartialSumGate, first: int
) -> None:
    """Make a convolution, and the norm behind it, follow a gate in space."""
    conv.__class__ = PartialConv2d
    conv.__dict__.update(spatial_gate=gate, first=first)
    conv.add_module("gate", gate)
    if norm is not None:
        norm.__class__ = PairedNorm2d
        norm.__dict__["spatial_gate"] = gate


def detach_partial(module: nn.Module) -> None:
    """Make it the plain layer that it was."""
    module.__class__ = nn.Conv2d if isinstance(module, PartialConv2d) else nn.BatchNorm2d
    for key in ("spatial_gate", "first"):
        module.__dict__.pop(key, None)
    module._modules.pop("gate", None)
