"""References for norms over pruned dimensions: the dense norm, statistics over kept indices.

Written independently of the tool: each function replaces one module's forward.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .layers import LayerNorm2d, RMSNorm

__all__ = ["group_norm", "kept", "layer_norm", "mask_norms", "rms_norm"]

Dims = Mapping[int, list[int]]


def kept(dense: nn.Module, removed: Mapping[str, Dims], name: str) -> Tensor:
    """Return the kept output channels of the weight called `name`."""
    gone = set(removed.get(name, {}).get(0, []))
    return torch.tensor([i for i in range(dense.get_parameter(name).shape[0]) if i not in gone])


def _mask(shape: tuple[int, ...], dims: Dims, like: Tensor) -> Tensor:
    mask = torch.ones(shape, dtype=like.dtype)
    for dim, indices in dims.items():
        mask.index_fill_(dim, torch.as_tensor(indices, dtype=torch.long), 0.0)
    return mask


def layer_norm(module: nn.Module, dims: Dims) -> None:
    """Make a layer norm ignore the removed indices of its normalised dimensions."""
    shape, channels_first = tuple(module.normalized_shape), isinstance(module, LayerNorm2d)

    def forward(x: Tensor) -> Tensor:
        if channels_first:
            x = x.permute(0, 2, 3, 1)
        mask, axes = _mask(shape, dims, x), tuple(range(-len(shape), 0))
        count = mask.sum()
        mean = (x * mask).sum(axes, keepdim=True) / count
        variance = ((x - mean).square() * mask).sum(axes, keepdim=True) / count
        x = (x - mean) * (variance + module.eps).rsqrt() * mask
        if module.weight is not None:
            x = x * module.weight
        if module.bias is not None:
            x = x + module.bias * mask
        return x.permute(0, 3, 1, 2) if channels_first else x

    module.forward = forward


def rms_norm(module: nn.Module, dims: Dims) -> None:
    """Make a root mean square norm ignore the removed indices of its last dimension."""

    def forward(x: Tensor) -> Tensor:
        mask = _mask(tuple(x.shape[-1:]), dims, x)
        variance = (x.square() * mask).sum(-1, keepdim=True) / mask.sum()
        return x * (variance + module.eps).rsqrt() * mask * module.weight

    module.forward = forward


def group_norm(module: nn.GroupNorm, dims: Dims) -> None:
    """Make a group norm ignore the removed channels, group by group."""

    def forward(x: Tensor) -> Tensor:
        mask = _mask((module.num_channels,), dims, x)
        grouped = x.reshape(x.shape[0], module.num_groups, -1)
        weight = mask.view(-1, 1).expand(-1, x[0, 0].numel()).reshape(module.num_groups, -1)
        count = weight.sum(1).clamp(min=1.0)
        mean = ((grouped * weight).sum(2) / count).unsqueeze(2)
        variance = (((grouped - mean).square() * weight).sum(2) / count).unsqueeze(2)
        y = ((grouped - mean) * (variance + module.eps).rsqrt()).view_as(x)
        shape = (-1,) + (1,) * (x.ndim - 2)
        mask = mask.view(shape)
        return y * mask * module.weight.view(shape) + mask * module.bias.view(shape)

    module.forward = forward


def mask_norms(dense: nn.Module, removed: Mapping[str, Dims]) -> None:
    """Make every norm of a dense model whose weight is in `removed` ignore those indices."""
    for path, module in dense.named_modules():
        dims = removed.get(f"{path}.weight" if path else "weight")
        if not dims:
            continue
        if isinstance(module, nn.LayerNorm):
            layer_norm(module, dims)
        elif isinstance(module, (nn.RMSNorm, RMSNorm)):
            rms_norm(module, dims)
        elif isinstance(module, nn.GroupNorm):
            group_norm(module, dims)
