"""Functions that a graph form calls beside PyTorch's operations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from secateur.errors import InputError

__all__ = ["check_inputs", "count_batch"]


def check_inputs(values: tuple[Any, ...], names: tuple[str, ...], shapes: Any) -> None:
    """Refuse inputs that the captured graph was not made for.

    It holds sizes as constants: inputs of another size could give a wrong result without an error.

    Raises
    ------
    InputError

    Examples
    --------
    >>> import torch
    >>> check_inputs((torch.zeros(5, 3),), ("x",), ((None, 3),))
    >>> check_inputs((torch.zeros(5, 4),), ("x",), ((None, 3),))
    Traceback (most recent call last):
        ...
    secateur.errors.InputError: the graph was captured for 'x' of [any, 3], not [5, 4]; ...
    """
    for value, name, shape in zip(values, names, shapes, strict=True):
        found = list(value.shape)
        fits = len(found) == len(shape) and all(
            wanted is None or size == wanted for size, wanted in zip(found, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise InputError(
                f"the graph was captured for {name!r} of [{wanted}], not {found}; "
                "make the graph form from example inputs of the size that you need"
            )


def count_batch(training: bool, batches: Tensor, momentum: float | None) -> float:
    """Do the bookkeeping of a batch norm in training: count the batch, return its momentum.

    Examples
    --------
    >>> import torch
    >>> batches = torch.tensor(1)
    >>> count_batch(True, batches, None), count_batch(False, batches, 0.1), batches
    (0.5, 0.1, tensor(2))
    """
    if training:
        batches.add_(1)
        if momentum is None:
            return 1.0 / float(batches)
    return 0.0 if momentum is None else momentum
