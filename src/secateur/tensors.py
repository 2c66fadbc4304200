"""Contents of tensors: exchanged while the object is kept, and taken out by a mask."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["INTEGERS", "swap_data", "taken"]

# Integers as wide as an element, by which NumPy moves what it has no type for, such as bfloat16.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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


def taken(tensor: Tensor, mask: Tensor) -> Tensor:
    """A copy of the entries where a mask of the tensor's shape is True, in index order.

    Examples
    --------
    >>> taken(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, False], [True, True]]))
    tensor([1., 3., 4.])
    """
    plain = INTEGERS.get(tensor.element_size())
    strided = tensor.layout is torch.strided and not tensor.is_quantized
    if tensor.device.type != "cpu" or plain is None or not strided or not tensor.dim():
        return tensor[mask]
    # PyTorch would first list the places, at 8 bytes each.
    values = tensor.detach().view(plain).numpy()[mask.numpy()]
    return torch.from_numpy(values).view(tensor.dtype)
