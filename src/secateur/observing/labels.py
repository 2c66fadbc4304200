"""Class labels, and whether a model has an output for each of them."""

from __future__ import annotations

from torch import Tensor

from secateur.errors import InputError

__all__ = ["IGNORED", "check_range", "range_of"]

IGNORED = -100
"""The label that cross entropy leaves out, in PyTorch's convention."""


def range_of(labels: Tensor) -> tuple[int, int] | None:
    """Smallest and largest class index; None where there is none.

    Examples
    --------
    >>> import torch
    >>> range_of(torch.tensor([3, IGNORED, 1])), range_of(torch.tensor([0.5]))
    ((1, 3), None)
    """
    if labels.is_floating_point():
        return None
    known = labels[labels != IGNORED]
    return (int(known.min()), int(known.max())) if known.numel() else None


def check_range(what: str, known: tuple[int, int] | None, outputs: int) -> None:
    """Refuse labels that there is no output for.

    Parameters
    ----------
    what : str
        Whose they are, for the message.
    known : (int, int) or None
        As `range_of` gives it; None is not checked.
    outputs : int

    Raises
    ------
    InputError

    Examples
    --------
    >>> check_range("labels", (0, 2), 3)
    >>> check_range("labels", (1, 3), 3)
    Traceback (most recent call last):
    ...
    secateur.errors.InputError: labels go from 1 to 3, and the model has 3 outputs, for labels 0...
    """
    if known is not None and not 0 <= known[0] <= known[1] < outputs:
        raise InputError(
            f"{what} go from {known[0]} to {known[1]}, and the model has {outputs} outputs, for "
            f"labels 0 to {outputs - 1}; build it with as many as the data has classes"
        )
