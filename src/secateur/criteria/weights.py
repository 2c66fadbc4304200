"""The tensors of a model as criteria see them: their family, and the weight that really acts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from secateur.criteria.base import Kind

__all__ = ["effective_weight", "kind_of", "owner_of"]


def owner_of(modules: Mapping[str, nn.Module], name: str) -> tuple[nn.Module, str]:
    """Return the module that owns a tensor, and the tensor's own name in it.

    The raw tensors of a parametrised weight belong to the layer, not to the parametrisation.

    Parameters
    ----------
    modules : mapping
        The model's ``named_modules(remove_duplicate=False)``.
    name : str
        Full name of a parameter or buffer.

    Examples
    --------
    >>> net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)))
    >>> owner_of(dict(net.named_modules()), "0.parametrizations.weight.original1")[1]
    'weight'
    """
    path, _, leaf = name.rpartition(".")
    head, marker, tail = f".{path}".rpartition(".parametrizations.")
    if marker and "." not in tail:
        path, leaf = head[1:], tail
    return modules[path], leaf


def kind_of(module: nn.Module) -> Kind:
    """Return the family of a module.

    Examples
    --------
    >>> kind_of(nn.ConvTranspose1d(1, 1, 1)), kind_of(nn.SyncBatchNorm(4)), kind_of(nn.ReLU())
    ('conv', 'batchnorm', 'other')
    """
    kinds: list[tuple[Kind, tuple[type[nn.Module], ...]]] = [
        ("conv", (_ConvNd,)),
        ("linear", (nn.Linear, nn.Bilinear, nn.MultiheadAttention)),
        ("batchnorm", (_BatchNorm,)),
        ("embedding", (nn.Embedding, nn.EmbeddingBag)),
        ("recurrent", (nn.RNNBase, nn.RNNCellBase)),
    ]
    for kind, classes in kinds:
        if isinstance(module, classes):
            return kind
    name = type(module).__name__.lower()
    # Libraries write their own: FrozenBatchNorm2d, LlamaRMSNorm, GPT-2's Conv1D (a linear).
    if "batchnorm" in name:
        return "batchnorm"
    if "norm" in name:
        return "norm"
    return "linear" if name == "conv1d" else "other"


def effective_weight(owner: nn.Module, leaf: str, tensor: Tensor) -> Tensor | None:
    """Return the weight that a raw tensor stands for.

    A weight norm keeps a direction and a length instead of a weight, a spectral norm a weight
    before scaling; their raw values say nothing about the magnitude of the layer. The raw tensor
    of the weight's own shape stands for the weight that results, the others for nothing.

    Parameters
    ----------
    owner, leaf
        As `owner_of` returns them.
    tensor : Tensor
        The raw tensor.

    Returns
    -------
    Tensor or None
        None for a raw tensor that another one stands for.
    """
    if parametrize.is_parametrized(owner, leaf):
        with torch.no_grad():
            weight = getattr(owner, leaf)
        raw = list(owner.get_submodule(f"parametrizations.{leaf}").named_parameters(recurse=False))
        return _stands_for(weight, raw, tensor)
    hook = _old_style_hook(owner, leaf)
    if hook is not None:
        base = hook.name
        raw = [(n, p) for n, p in owner.named_parameters(recurse=False) if _is_raw(n, base)]
        options = {} if type(hook).__name__ == "WeightNorm" else {"do_power_iteration": False}
        with torch.no_grad():
            weight = hook.compute_weight(owner, **options)
        return _stands_for(weight, raw, tensor)
    return tensor


def _stands_for(
    weight: Tensor, raw: list[tuple[str, nn.Parameter]], tensor: Tensor
) -> Tensor | None:
    heirs = [value for _, value in raw if value.shape == weight.shape]
    if not heirs:
        return tensor
    # Of several raw tensors of the weight's shape (a length per weight) the last is the direction.
    return weight if heirs[-1] is tensor else None


def _is_raw(name: str, base: str) -> bool:
    return name in (f"{base}_g", f"{base}_v", f"{base}_orig")


def _old_style_hook(owner: nn.Module, leaf: str) -> Any:
    """Return the hook of ``nn.utils.weight_norm`` or ``spectral_norm`` that made this tensor."""
    hooks: list[Any] = list(owner._forward_pre_hooks.values())
    for hook in hooks:
        if type(hook).__name__ in ("WeightNorm", "SpectralNorm") and _is_raw(leaf, hook.name):
            return hook
    return None
