"""Layers that follow gates: masked in training, and computing only what is open in inference.

A gated layer is the layer that it was, of a class that derives from its own, so that names, types
and checkpoints stay.
"""

from __future__ import annotations

from torch import nn

from secateur.dynamic.carrying import (
    GatedBatchNorm1d,
    GatedBatchNorm2d,
    GatedBatchNorm3d,
    GatedDepthwise1d,
    GatedDepthwise2d,
    GatedDepthwise3d,
)
from secateur.dynamic.links import Links
from secateur.dynamic.mixing import GatedConv1d, GatedConv2d, GatedConv3d, GatedLinear

__all__ = ["GATED", "attach", "detach"]

GATED: dict[tuple[type, bool], type] = {
    (nn.Conv1d, False): GatedConv1d, (nn.Conv1d, True): GatedDepthwise1d,
    (nn.Conv2d, False): GatedConv2d, (nn.Conv2d, True): GatedDepthwise2d,
    (nn.Conv3d, False): GatedConv3d, (nn.Conv3d, True): GatedDepthwise3d,
    (nn.Linear, False): GatedLinear,
    (nn.BatchNorm1d, True): GatedBatchNorm1d,
    (nn.BatchNorm2d, True): GatedBatchNorm2d,
    (nn.BatchNorm3d, True): GatedBatchNorm3d,
}  # fmt: skip
"""Class of a layer, and whether it carries units -> the class that follows gates."""


def attach(module: nn.Module, links: Links) -> None:
    """Make a layer follow gates."""
    module.__class__ = GATED[type(module), links.carries is not None]
    module.__dict__["links"] = links
    if links.decides is not None:
        module.add_module("gate", links.decides)


def detach(module: nn.Module) -> None:
    """Make a layer the plain one that it was."""
    for plain, carrying in GATED:
        if type(module) is GATED[plain, carrying]:
            module.__class__ = plain
            break
    for key in ("links", "_kept"):
        module.__dict__.pop(key, None)
    module._modules.pop("gate", None)
