"""Functions that a graph form calls beside PyTorch's operations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from secateur.errors import InputError

__all__ = ["check_inputs", "count_batch"]


def check_inputs(values: tuple[Any, ...], names: tuple[str, ...], expected: Any) -> None:
    """Refuse inputs that the captured graph was not made for.

    It holds sizes and settings as constants: others could give a wrong result without an error.

    Parameters
    ----------
    values, names
        The inputs of this call.
    expected : sequence
        For each the shape of a tensor, a list with None for any size, or the value it must have.

    Raises
    ------
    InputError

    Examples
    --------
    >>> import torch
    >>> check_inputs((torch.zeros(5, 3), True), ("x", "fast"), ([None, 3], True))
    >>> check_inputs((torch.zeros(5, 4),), ("x",), ([None, 3],))
    Traceback (most recent call last):
        ...
    secateur.errors.InputError: the graph was captured for 'x' of [any, 3], not of [5, 4]; ...
    """
    for value, name, wanted in zip(values, names, expected, strict=True):
        if isinstance(wanted, list):
            fits = isinstance(value, Tensor) and _fits(value.shape, wanted)
        else:
            fits = not isinstance(value, Tensor) and value == wanted
        if not fits:
            raise InputError(
                f"the graph was captured for {name!r} {_said(wanted)}, not {_said(value)}; "
                "make the graph form from example inputs like these"
            )


def _fits(shape: Any, wanted: list[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or found == size for found, size in zip(shape, wanted, strict=True)
    )


def _said(value: Any) -> str:
    shape = list(value.shape) if isinstance(value, Tensor) else value
    if not isinstance(shape, list):
        return f"= {value!r}"
    return f"of [{', '.join('any' if size is None else str(size) for size in shape)}]"


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
