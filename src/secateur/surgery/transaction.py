"""All or nothing: a model that is put back bit for bit when something fails."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from secateur.graph.trace import named_state
from secateur.masks import KeeperStates
from secateur.tensors import swap_data

__all__ = ["Snapshot", "swap_data", "transaction"]


# Changed in place, so that a reference is not enough; masks come with hooks.
_TABLES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_forward_pre_hooks",
    "_load_state_dict_post_hooks",
)


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
            for table in _TABLES:
                saved[table] = saved[table].copy()
            self._modules.append((module, saved))
        self._keepers = KeeperStates(model.modules())

    def restore(self) -> None:
        """Put every tensor, gradient and attribute back."""
        self._keepers.restore([module for module, _ in self._modules])
        for module, saved in self._modules:
            for table in _TABLES:
                current = module.__dict__[table]
                current.clear()
                current.update(saved[table])
            for key in list(module.__dict__):
                if key not in saved:
                    del module.__dict__[key]
            for key, value in saved.items():
                if key not in _TABLES:
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
    except BaseException:  # also when stopped
        snapshot.restore()
        raise
