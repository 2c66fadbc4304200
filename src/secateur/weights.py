"""The weights that sparse granularities apply to, each seen as outputs, inputs, kernel positions.

A transposed convolution stores inputs first, GPT-2's linear layers store their weight transposed,
grouped convolutions share one input axis between groups. Seen alike, one rule of "V outputs at one
input" or "N of M along the inputs" holds for all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from secateur.masks import effective

__all__ = ["Storage", "Weight", "parameter_names", "prunable_weights"]

Storage = Literal["outputs first", "inputs first"]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight of a convolution, a linear, attention or recurrent layer.

    Attributes
    ----------
    name : str
        Dotted name of the module's tensor, such as ``layer1.0.conv1.weight``.
    shape : tuple of int
        As the module stores it.
    storage : str
        Whether outputs or inputs come first.
    groups : int
        Of a convolution.
    """

    name: str
    shape: tuple[int, ...]
    storage: Storage = "outputs first"
    groups: int = 1

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """``(outputs, inputs of one group, *kernel)``."""
        first, second, *kernel = self.shape
        if self.storage == "outputs first":
            return (first, second, *kernel)
        return (second * self.groups, first // self.groups, *kernel)

    def canonical(self, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape as ``[outputs, inputs, *kernel]``; a view if possible.

        Examples
        --------
        >>> import torch
        >>> weight = Weight("up.weight", (4, 3, 2), "inputs first", groups=2)
        >>> weight.canonical(torch.zeros(4, 3, 2)).shape
        torch.Size([6, 2, 2])
        """
        if self.storage == "outputs first":
            return tensor
        kernel = tensor.shape[2:]
        parts = tensor.reshape(self.groups, -1, tensor.shape[1], *kernel)
        return parts.transpose(1, 2).reshape(self.canonical_shape)

    def stored(self, tensor: Tensor) -> Tensor:
        """The reverse of `canonical`."""
        if self.storage == "outputs first":
            return tensor
        outputs, inputs, *kernel = self.canonical_shape
        parts = tensor.reshape(self.groups, outputs // self.groups, inputs, *kernel)
        return parts.transpose(1, 2).reshape(self.shape)

    def matrix(self, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape as the matrices that its product is made of.

        Returns
        -------
        Tensor, shape [groups, outputs of a group, kernel positions * inputs of a group]
            Inputs innermost, so that runs of inputs at one kernel position are consecutive.

        Examples
        --------
        >>> import torch
        >>> weight = Weight("conv.weight", (4, 3, 2), groups=2)
        >>> weight.matrix(torch.arange(24).view(4, 3, 2))[0, 0]
        tensor([0, 2, 4, 1, 3, 5])
        """
        canonical = self.canonical(tensor)
        rows = canonical.movedim(1, -1).reshape(canonical.shape[0], -1)
        return rows.reshape(self.groups, -1, rows.shape[1])

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The reverse of `matrix`: a tensor of the weight's shape, as the module stores it."""
        outputs, inputs, *kernel = self.canonical_shape
        rows = matrix.reshape(outputs, *kernel, inputs)
        return self.stored(rows.movedim(-1, 1)).contiguous()


def parameter_names(model: nn.Module, weights: Iterable[Weight]) -> dict[str, str | None]:
    """Weight name -> the first name of its parameter; None where other parameters compute it.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> net[1].weight = net[0].weight
    >>> parameter_names(net, prunable_weights(net))
    {'0.weight': '0.weight'}
    """
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        weight.name: own.get(id(model.get_submodule(weight.module)._parameters.get(weight.leaf)))
        for weight in weights
    }


def prunable_weights(model: nn.Module) -> Iterable[Weight]:
    """Every weight matrix or kernel that computes features; each tied one once.

    Embeddings are left out: they look up, and a zero in them saves nothing. So are biases, norms
    and tensors of modules that PyTorch does not know.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    >>> [(weight.name, weight.canonical_shape) for weight in prunable_weights(net)]
    [('0.weight', (4, 3, 3, 3)), ('2.weight', (2, 4))]
    """
    seen: set[int] = set()
    looked_up = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    for path, module in model.named_modules():
        for leaf, storage, groups in _weights_of(module):
            raw = _raw(module, leaf)
            if raw is None or id(raw) in seen or id(raw) in looked_up:
                continue
            seen.add(id(raw))
            name = f"{path}.{leaf}" if path else leaf
            shape = tuple(effective(module, leaf).shape)
            # Not inside: between two items, the caller's code would run without gradients.
            yield Weight(name, shape, storage, groups)


def _weights_of(module: nn.Module) -> list[tuple[str, Storage, int]]:
    if isinstance(module, _ConvTransposeNd):
        return [("weight", "inputs first", module.groups)]
    if isinstance(module, _ConvNd):
        return [("weight", "outputs first", module.groups)]
    if isinstance(module, nn.Linear):
        return [("weight", "outputs first", 1)]
    if isinstance(module, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return [(name, "outputs first", 1) for name in names]
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        own = [name for name, _ in module.named_parameters() if name.startswith("weight")]
        return [(name, "outputs first", 1) for name in own]
    if type(module).__name__ == "Conv1D" and getattr(module, "nf", None) is not None:
        return [("weight", "inputs first", 1)]
    return []


def _raw(module: nn.Module, leaf: str) -> Tensor | None:
    """The tensor that is trained, where the weight is computed from it."""
    if parametrize.is_parametrized(module, leaf):
        return next(module.parametrizations[leaf].parameters(), None)  # type: ignore[union-attr, index]
    found = getattr(module, leaf, None)
    return found if isinstance(found, Tensor) else None
