"""A tensor's contents exchanged, the object kept."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["swap_data"]


def swap_data(tensor: Tensor, data: Tensor) -> None:
    """Give a tensor other contents, maybe of another shape, and keep the object.

    Tied modules, optimizers and hooks hold the object, so they follow.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(3))
    >>> swap_data(weight, torch.ones(2))
    >>> weight
    Parameter containing:
    tensor([1., 1.], requires_grad=True)
    """
    if tensor.data.shape != data.shape and tensor.requires_grad:
        # Autograd remembers the old shape in the node that collects the gradient, alive as
        # long as any earlier loss is; passing through another dtype makes it forget.
        other = torch.float32 if data.dtype == torch.float64 else torch.float64
        tensor.data = data.new_empty(0, dtype=other)
    tensor.data = data
