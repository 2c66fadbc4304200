"""A model seen as a function from a flat list of named tensors to another: what ONNX can hold."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import InputError
from secateur.inputs import Inputs, named_tensors

__all__ = ["FlatInputs", "FlatModel", "output_names"]


class FlatInputs:
    """The tensors among a model's inputs, in a flat list, with the names that `forward` gives them.

    Everything else (numbers, flags, ``None``) is a constant.

    Examples
    --------
    >>> model = nn.Bilinear(2, 3, 4)
    >>> flat = FlatInputs(model, Inputs((torch.zeros(5, 2),), {"input2": torch.zeros(5, 3)}))
    >>> flat.names, flat.batch, flat.batched
    (['input1', 'input2'], 5, [True, True])
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        with_paths, self.structure = pytree.tree_flatten_with_path((inputs.args, inputs.kwargs))
        self.leaves = [leaf for _, leaf in with_paths]
        self.positions = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor)]
        if not self.positions:
            raise InputError("the example inputs hold no tensor; an ONNX graph needs at least one")
        parameters = list(inspect.signature(model.forward).parameters.values())
        names = [_name(with_paths[i][0], parameters) for i in self.positions]
        self.names = _distinct(names)
        self.tensors: list[Tensor] = [self.leaves[i] for i in self.positions]
        sizes = [tensor.shape[0] if tensor.dim() else None for tensor in self.tensors]
        self.batch = next((size for size in sizes if size is not None), None)
        self.batched = [size is not None and size == self.batch for size in sizes]

    def rebuild(self, tensors: Sequence[Tensor]) -> Inputs:
        """Put tensors back in the places that they came from."""
        leaves = list(self.leaves)
        for position, tensor in zip(self.positions, tensors, strict=True):
            leaves[position] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return Inputs(args, kwargs)

    def at_batch(self, size: int) -> list[Tensor]:
        """Repeat the examples to another batch size.

        Rows of numbers are rolled as they repeat: equal rows would hide a model that mixes them.
        """
        return [
            _resized(tensor, size) if batched else tensor
            for tensor, batched in zip(self.tensors, self.batched, strict=True)
        ]


class FlatModel(nn.Module):
    """Call a model on a flat list of tensors and return a flat tuple of tensors."""

    def __init__(self, model: nn.Module, inputs: FlatInputs) -> None:
        super().__init__()
        self.model = model
        self._inputs = inputs
        # Not eval(): that would reach into the model, whose modes are its owner's.
        self.training = False

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = self._inputs.rebuild(tensors)
        output = self.model(*inputs.args, **inputs.kwargs)
        return tuple(tensor for _, tensor in named_tensors(output))


def output_names(output: Any, taken: Iterable[str]) -> list[str]:
    """Name the tensors of a model's output: ``"output"``, ``"output_1"``, or their keys.

    Examples
    --------
    >>> output_names((torch.zeros(1), [torch.zeros(1)]), taken=["x"])
    ['output_0', 'output_1_0']
    >>> output_names({"logits": torch.zeros(1), "x": torch.zeros(1)}, taken=["x"])
    ['logits', 'output_x']
    """
    taken = list(taken)
    names = []
    for path, _ in named_tensors(output):
        short = path.removeprefix("output.")
        if not short.isidentifier() or short in taken:
            short = path
        names.append(short.replace(".", "_"))
    return _distinct(names, taken)


def _name(path: Sequence[Any], parameters: Sequence[inspect.Parameter]) -> str:
    parts = [_part(key) for key in path]
    if parts[0] == "1":
        return "_".join(parts[1:])
    index = int(parts[1])
    kind = inspect.Parameter.VAR_POSITIONAL
    first_free = next((i for i, p in enumerate(parameters) if p.kind is kind), len(parameters))
    if index < first_free:
        return "_".join([parameters[index].name, *parts[2:]])
    return "_".join([parameters[first_free].name, str(index - first_free), *parts[2:]])


def _part(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _distinct(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    used, distinct = set(taken), []
    for name in names:
        candidate, number = name, 1
        while candidate in used:
            number += 1
            candidate = f"{name}_{number}"
        used.add(candidate)
        distinct.append(candidate)
    return distinct


def _resized(tensor: Tensor, size: int) -> Tensor:
    count = tensor.shape[0]
    rows = []
    for index in range(size):
        row = tensor[index % count]
        if index >= count and row.is_floating_point() and row.dim():
            row = row.roll(index // count, dims=-1)
        rows.append(row)
    return torch.stack(rows)
