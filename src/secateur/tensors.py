"""Contents of tensors: exchanged while the object is kept, and taken out by a mask."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["INTEGERS", "swap_data", "taken", "without", "zero_"]

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


def zero_(tensor: Tensor, gone: Tensor) -> None:
    """Make entries exactly zero in place, without gradients; NaN and infinity go as well.

    Examples
    --------
    >>> values = torch.tensor([torch.nan, -2.0, 3.0])
    >>> zero_(values, torch.tensor([True, True, False]))
    >>> values
    tensor([0., 0., 3.])
    """
    integers = _integers(tensor)
    with torch.no_grad():
        if integers is None:
            tensor.masked_fill_(gone, 0)
        else:
            integers.mul_(~gone)


def without(tensor: Tensor, gone: Tensor) -> Tensor:
    """A copy with zeros at some entries, laid out alike; differentiable where the tensor is.

    Examples
    --------
    >>> without(torch.tensor([torch.inf, 3.0]), torch.tensor([True, False]))
    tensor([0., 3.])
    """
    integers = None if tensor.requires_grad else _integers(tensor)
    if integers is None:
        # Filled in a copy: filling alone would lay the result out as the mask is.
        return tensor.clone().masked_fill_(gone, 0)
    return torch.mul(integers, ~gone, out=torch.empty_like(integers)).view(tensor.dtype)


def _integers(tensor: Tensor) -> Tensor | None:
    """The same memory as integers, whose products with 0 and 1 are exact whatever the bits.

    PyTorch multiplies several entries at once on a CPU, and fills them one by one.
    """
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
    if not plain or tensor.layout is not torch.strided or not tensor.is_floating_point():
        return None
    return tensor.detach().view(INTEGERS[tensor.element_size()])
