"""Where a weight lives: a parameter, computed by parametrisations, or made by a hook."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.masks.computed import hook_of, makers, masked_of
from secateur.masks.keeper import keeper_of, own

__all__ = ["Place", "effective", "mask_at", "places"]


@dataclasses.dataclass(frozen=True)
class Place:
    """A module's tensor that can be masked.

    Attributes
    ----------
    name : str
    module : torch.nn.Module
    leaf : str
        Its name in the module.
    tensor : Tensor or None
        The parameter or buffer; None where the weight is computed.
    """

    name: str
    module: nn.Module
    leaf: str
    tensor: Tensor | None

    @property
    def key(self) -> tuple[int, str]:
        """The same for all names of one weight, and for no other."""
        return (id(self.module), self.leaf) if self.tensor is None else (id(self.tensor), "")

    @property
    def shape(self) -> tuple[int, ...]:
        tensor = effective(self.module, self.leaf) if self.tensor is None else self.tensor
        return tuple(tensor.shape)


def places(model: nn.Module) -> Iterator[Place]:
    """Everything in a model that can be masked, under every name.

    Examples
    --------
    >>> [(place.name, place.shape) for place in places(nn.Sequential(nn.Linear(3, 2)))]
    [('0.weight', (2, 3)), ('0.bias', (2,))]
    """
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for table in (module._parameters, module._buffers):
            for leaf, tensor in table.items():
                if tensor is not None:
                    yield Place(prefix + leaf, module, leaf, tensor)
        if parametrize.is_parametrized(module):
            for leaf in module.parametrizations:
                yield Place(prefix + leaf, module, leaf, None)
        for leaf, value in module.__dict__.items():
            if isinstance(value, Tensor) and makers(module, leaf):
                yield Place(prefix + leaf, module, leaf, None)


def effective(module: nn.Module, leaf: str) -> Tensor:
    """What a module computes with, detached; nothing moves by looking at it."""
    with torch.no_grad(), _still(module, leaf):
        for hook in makers(module, leaf):
            hook(module, ())
        masking = hook_of(module, leaf)
        if masking is not None:
            masking(module, ())
        found: Tensor = getattr(module, leaf)
        return found.detach()


@contextlib.contextmanager
def _still(module: nn.Module, leaf: str) -> Iterator[None]:
    """Evaluation mode for what computes a weight: in training, spectral norm's estimate moves."""
    parts = [module]
    if parametrize.is_parametrized(module, leaf):
        parts = list(module.parametrizations[leaf].modules())  # type: ignore[union-attr, index]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def mask_at(module: nn.Module, leaf: str) -> Tensor | None:
    """The mask of a module's weight, True where kept; None where nothing is masked."""
    if parametrize.is_parametrized(module, leaf):
        part = masked_of(module, leaf)
        return None if part is None else ~part.gone.bool()
    hook = hook_of(module, leaf)
    if hook is not None:
        return ~getattr(module, hook.buffer).bool()
    tensor = own(module, leaf)
    keeper = None if tensor is None else keeper_of(tensor)
    return None if keeper is None else keeper.mask
