"""The same products through torch's CSR matrices: a candidate, and what is left without kernels."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from secateur.sparse.layout import Packed

__all__ = ["convolution", "csr", "linear"]

# By the identity of the values: a matrix is converted once, as long as its values live.
_made: dict[int, tuple[weakref.ref[Tensor], int, list[Tensor]]] = {}


def csr(packed: Packed) -> list[Tensor]:
    """One CSR matrix a group; 32-bit indices are twice as fast as torch's usual ones."""
    key, values = id(packed.values), packed.values
    version = 0 if values.is_inference() else values._version
    kept = _made.get(key)
    if kept is None or kept[0]() is not values or kept[1] != version:
        # One that is made in inference mode could never be used outside of it.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            rows = packed.dense().reshape(packed.groups, -1, packed.inputs)
            made = [_with_short_indices(matrix.to_sparse_csr()) for matrix in rows]
        gone = weakref.ref(values, lambda _: _made.pop(key, None))
        _made[key] = kept = (gone, version, made)
    return kept[2]


def _with_short_indices(matrix: Tensor) -> Tensor:
    return torch.sparse_csr_tensor(
        matrix.crow_indices().int(),
        matrix.col_indices().int(),
        matrix.values(),
        matrix.shape,
        check_invariants=False,
    )


def linear(x: Tensor, packed: Packed, bias: Tensor | None) -> Tensor:
    """X [..., inputs] -> [..., outputs]."""
    (matrix,) = csr(packed)
    made = (matrix @ x.reshape(-1, packed.inputs).t()).t()
    if bias is not None:
        made = made + bias
    return made.reshape(*x.shape[:-1], packed.outputs).contiguous()


def convolution(
    x: Tensor,
    packed: Packed,
    bias: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """X [batch, channels, rows, columns] -> [batch, outputs, *size].

    Padding is left, right, top, bottom.
    """
    if any(padding):
        x = functional.pad(x, tuple(padding))
    batch, channels = x.shape[:2]
    if tuple(kernel) == (1, 1):
        columns = x[:, :, :: stride[0], :: stride[1]].reshape(batch, channels, -1)
    else:
        columns = functional.unfold(x, tuple(kernel), tuple(dilation), 0, tuple(stride))
    # All samples side by side: one product a group.
    columns = columns.reshape(batch, packed.groups, packed.inputs, -1).permute(1, 2, 0, 3)
    flat = columns.reshape(packed.groups, packed.inputs, -1)
    parts = [matrix @ part for matrix, part in zip(csr(packed), flat, strict=True)]
    made = torch.cat(parts).reshape(packed.outputs, batch, *size).transpose(0, 1)
    if bias is not None:
        made = made + bias.reshape(-1, 1, 1)
    return made.contiguous()
