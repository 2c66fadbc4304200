"""Parametrizations taken off one module, and not off its copies."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

__all__ = ["remove_parametrizations"]


def remove_parametrizations(module: nn.Module, leaf: str, *, leave_parametrized: bool) -> None:
    """Take the parametrizations off a tensor of a module.

    PyTorch keeps the property that computes the tensor in a class that a deep copy shares, and
    deletes it there: an averaged model would lose its weights. The module gets a class of its own
    first.

    Parameters
    ----------
    module : nn.Module
    leaf : str
        Name of the tensor in the module.
    leave_parametrized : bool
        Whether the computed value stays, or the tensor that it was computed from.

    Examples
    --------
    >>> import copy, torch
    >>> layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    >>> other = copy.deepcopy(layer)
    >>> remove_parametrizations(layer, "weight", leave_parametrized=True)
    >>> bool((layer.weight == other.weight).all())
    True
    """
    shared = type(module)
    own = {
        key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")
    }
    module.__class__ = type(shared.__name__, shared.__bases__, own)
    parametrize.remove_parametrizations(module, leaf, leave_parametrized)
