"""What a layer has to do with gates."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.dynamic.gates import Gate
from secateur.dynamic.lanes import Lanes

__all__ = ["Links", "convolved", "held"]

CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@dataclasses.dataclass(eq=False)
class Links:
    """What a layer has to do with gates.

    Attributes
    ----------
    decides : Gate or None
        Looks at what this layer reads, before it.
    makes, carries, reads : Lanes or None
        Its output, both of its sides, or its input.
    scales : Gate or None
        Whose scale multiplies the output here, but not the bias.
    counts : tuple of (module, attribute, units, gate)
        Sizes that follow the number of open units from here on, and are put back by readers.
    """

    decides: Gate | None = None
    makes: Lanes | None = None
    carries: Lanes | None = None
    reads: Lanes | None = None
    scales: Gate | None = None
    counts: tuple[tuple[nn.Module, str, int, Gate], ...] = ()

    @property
    def skips(self) -> bool:
        """Whether any of its gates leaves out."""
        return any(
            lanes is not None and lanes.skips for lanes in (self.makes, self.carries, self.reads)
        )

    @property
    def gates(self) -> list[Gate]:
        lanes = (self.makes, self.carries, self.reads)
        found = [gate for each in lanes if each is not None for gate in each.gates]
        return list({id(gate): gate for gate in found}.values())


def held(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer."""
    return cast("Tensor", module.weight), cast("Tensor | None", module.bias)


def convolved(
    module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int
) -> Tensor:
    """What a convolution computes with part of its weight."""
    conv = cast("nn.Conv2d", module)
    padding: Any = conv.padding
    if conv.padding_mode != "zeros":
        x = functional.pad(x, conv._reversed_padding_repeated_twice, conv.padding_mode)
        padding = 0
    # Compilers have no fake of this operator, and whoever trains has large batches.
    if (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _vectorised(x, padding)
    ):
        found: Tensor = torch.mkldnn_convolution(
            x, weight, bias, padding or (0, 0), conv.stride, conv.dilation, groups
        )
        return found
    call: Any = CONVOLVE[weight.dim() - 2]
    return cast("Tensor", call(x, weight, bias, conv.stride, padding, conv.dilation, groups))


def _vectorised(x: Tensor, padding: Any) -> bool:
    """Whether oneDNN computes this.

    For one small image PyTorch falls back to a kernel that first writes every window out. What is
    left of a layer is small more often than the layer was.
    """
    return bool(
        x.dim() == 4
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not isinstance(padding, str)
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    )
