"""All or nothing: a model that is put back bit for bit when something fails."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from secateur.graph.trace import named_state

__all__ = ["Snapshot", "swap_data", "transaction"]


def swap_data(tensor: Tensor, data: Tensor) -> None:
    """Give a tensor other contents, maybe of another shape, and keep the object.

    Tied modules, optimizers and hooks hold the object, so they follow.
    """
    if tensor.data.shape != data.shape and tensor.requires_grad:
        # Autograd remembers the old shape in the node that collects the gradient, alive as
        # long as any earlier loss is; passing through another dtype makes it forget.
        other = data.new_empty(0, dtype=_other_dtype(data))
        tensor.data = other
    tensor.data = data


def _other_dtype(data: Tensor) -> Any:
    import torch

    return torch.float64 if data.dtype != torch.float64 else torch.float32


@dataclasses.dataclass
class _Saved:
    tensor: Tensor
    data: Tensor
    grad: Tensor | None
    requires_grad: bool


class Snapshot:
    """References to everything that surgery replaces; nothing is copied.

    Surgery never writes into existing storage, so holding the old tensors is enough.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tensors = [
            _Saved(tensor, tensor.data, tensor.grad if tensor.is_leaf else None,
                   tensor.requires_grad)
            for tensor in named_state(model).values()
        ]  # fmt: skip
        self._modules: list[tuple[nn.Module, dict[str, Any]]] = []
        for module in model.modules():
            saved = dict(module.__dict__)
            for table in ("_parameters", "_buffers", "_modules"):
                saved[table] = dict(saved[table])
            self._modules.append((module, saved))

    def restore(self) -> None:
        """Put every tensor, gradient and attribute back."""
        for module, saved in self._modules:
            for table in ("_parameters", "_buffers", "_modules"):
                current = module.__dict__[table]
                current.clear()
                current.update(saved[table])
            for key in list(module.__dict__):
                if key not in saved:
                    del module.__dict__[key]
            for key, value in saved.items():
                if key not in ("_parameters", "_buffers", "_modules"):
                    module.__dict__[key] = value
        for entry in self._tensors:
            if entry.tensor.is_leaf:
                entry.tensor.grad = None
            if entry.tensor.data.data_ptr() != entry.data.data_ptr() or (
                entry.tensor.shape != entry.data.shape
            ):
                swap_data(entry.tensor, entry.data)
            if entry.tensor.is_leaf:
                entry.tensor.requires_grad_(entry.requires_grad)
                entry.tensor.grad = entry.grad


@contextlib.contextmanager
def transaction(model: nn.Module) -> Iterator[Snapshot]:
    """Restore the model if the body raises; keep the changes otherwise.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> try:
    ...     with transaction(layer):
    ...         layer.out_features = 1
    ...         raise RuntimeError
    ... except RuntimeError:
    ...     pass
    >>> layer.out_features
    2
    """
    snapshot = Snapshot(model)
    try:
        yield snapshot
    except BaseException:
        snapshot.restore()
        raise
