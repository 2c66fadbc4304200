"""Gradients of terms that are not part of the loss."""

from __future__ import annotations

from torch import Tensor

__all__ = ["add_to_gradient"]


def add_to_gradient(tensor: Tensor, extra: Tensor) -> None:
    """Add to a gradient, or make it where there is none yet."""
    extra = extra.detach().to(tensor.dtype)
    if tensor.grad is None:
        tensor.grad = extra.clone()
    else:
        tensor.grad.add_(extra)
