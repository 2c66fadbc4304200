"""The ways in which one layer could run, each as a module that takes its place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.sparse import csr
from secateur.sparse.convolution import LARGEST_STRIDE, SparseConv2d
from secateur.sparse.dense import BFloat16, ChannelsLast, Prepacked, can_prepack
from secateur.sparse.layout import HEIGHTS, pack
from secateur.sparse.library import library
from secateur.sparse.linear import SparseLinear
from secateur.sparse.products import output_size

__all__ = ["DENSE", "DTYPES", "Layer", "TorchCsr", "candidates", "fixed", "is_dense", "why_not"]

Layer: TypeAlias = "nn.Linear | nn.Conv2d"
Maker: TypeAlias = Callable[[Any], nn.Module]

DENSE = "dense"
DTYPES = ("float32", "bfloat16")
LEAST_ZEROS = 0.3


class TorchCsr(nn.Module):
    """A layer as a product with torch's CSR matrix.

    Parameters
    ----------
    layer : torch.nn.Linear or torch.nn.Conv2d
        Padding of zeros only.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        sparse = _sparse(layer, 1)
        self.sparse = sparse

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes."""
        sparse = self.sparse
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return sparse(x)
        if isinstance(sparse, SparseLinear):
            return csr.linear(x, sparse.packed(), sparse.bias)
        geometry = (sparse.kernel, sparse.stride, sparse.padding, sparse.dilation)
        size = output_size(x.shape[2:], *geometry)
        return csr.convolution(x, sparse.packed(), sparse.bias, *geometry, size)


def _sparse(layer: Layer, height: int) -> SparseLinear | SparseConv2d:
    if isinstance(layer, nn.Linear):
        return SparseLinear.from_dense(layer, height)
    return SparseConv2d.from_dense(layer, height)


def fixed(layer: Layer) -> str | None:
    """Why a layer runs as it is, without being timed; None where there is a choice."""
    if layer.weight.dtype != torch.float32:
        return f"it is in {str(layer.weight.dtype).removeprefix('torch.')}"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return "it has hooks"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"it pads by {layer.padding_mode!r}"
    return None


def why_not(layer: Layer) -> str | None:
    """Why a layer stays dense; None where it may be sparse.

    Examples
    --------
    >>> why_not(nn.Linear(8, 8))
    '0 % of the weights are zero'
    """
    if isinstance(layer, nn.Conv2d):
        if max(layer.stride) > LARGEST_STRIDE:
            return f"its stride is over {LARGEST_STRIDE}"
        if layer.groups == layer.in_channels > 1:
            return "it is depthwise"
    zeros = float((layer.weight == 0).float().mean())
    if zeros < LEAST_ZEROS:
        return f"{zeros:.0%} of the weights are zero".replace("%", " %")
    return None


def candidates(layer: Layer, dtypes: Collection[str] = ("float32",)) -> dict[str, Maker]:
    """Ways to run a layer, by name; ``"dense"`` is the layer itself, and the first.

    Parameters
    ----------
    layer : torch.nn.Linear or torch.nn.Conv2d
        For which `fixed` knows no reason; sparse ways only where `why_not` knows none either.
    dtypes : collection of str, default ("float32",)
        What may be computed in: with ``"bfloat16"`` among them, dense layers in bfloat16 as well.

    Raises
    ------
    InputError
        For other dtypes.
    """
    strange = set(dtypes) - set(DTYPES)
    if strange or "float32" not in dtypes:
        raise InputError(
            f"dtypes are float32 and, where its precision is enough, bfloat16; not {list(dtypes)}"
        )
    found: dict[str, Maker] = {DENSE: lambda layer: layer}
    if isinstance(layer, nn.Conv2d):
        found["dense, channels last"] = ChannelsLast
    if can_prepack():
        found["dense, prepacked"] = Prepacked
    if "bfloat16" in dtypes:
        found["dense, bfloat16"] = BFloat16
    if why_not(layer):
        return found
    found["sparse, torch CSR"] = TorchCsr
    if library() is not None:
        for height in _heights(layer):
            found[f"sparse, {height}x1"] = functools.partial(_sparse, height=height)
    return found


def is_dense(name: str) -> bool:
    """Whether a candidate multiplies by zeros as well."""
    return name.startswith(DENSE)


def _heights(layer: Layer) -> list[int]:
    """Those that could be the fastest: a taller vector must not multiply many times as much."""
    matrix, groups = layer.weight.detach().flatten(1), getattr(layer, "groups", 1)
    stored = {height: pack(matrix, height, groups).values.numel() for height in HEIGHTS}
    return [
        height
        for height in HEIGHTS
        if all(stored[height] <= 2.5 * stored[lower] for lower in HEIGHTS if lower < height)
    ]
