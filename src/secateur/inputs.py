"""Running a user's model: its example inputs, its outputs, and the mode it is left in."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.errors import InputError, first_line

__all__ = [
    "ExampleInputs",
    "Inputs",
    "as_inputs",
    "evaluating",
    "in_eval_mode",
    "named_tensors",
    "replace_tensors",
    "run",
]

ExampleInputs: TypeAlias = "Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Inputs"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Positional and keyword arguments of one forward pass."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def fresh(self) -> Inputs:
        """A copy for one pass, since a model may write into what it is given."""
        return Inputs(
            tuple(_copied(value) for value in self.args),
            {key: _copied(value) for key, value in self.kwargs.items()},
        )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name, such as ``args.0`` or ``kwargs.mask``."""
        yield from named_tensors(self.args, "args")
        yield from named_tensors(self.kwargs, "kwargs")

    def replaced(self, change: Callable[[str, Tensor], Tensor]) -> Inputs:
        """The same arguments with every tensor ``change(name, tensor)``."""
        return Inputs(
            replace_tensors(self.args, change, "args"),
            replace_tensors(self.kwargs, change, "kwargs"),
        )


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if type(value) in (tuple, list):
        return type(value)(_copied(item) for item in value)
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value


def as_inputs(example_inputs: ExampleInputs) -> Inputs:
    """Read example inputs: a tensor, a tuple of positional or a dict of keyword inputs.

    Raises
    ------
    InputError
        For anything else.

    Examples
    --------
    >>> as_inputs(torch.zeros(1, 3)).args[0].shape
    torch.Size([1, 3])
    >>> sorted(as_inputs({"input_ids": torch.zeros(1, 4)}).kwargs)
    ['input_ids']
    """
    if isinstance(example_inputs, Inputs):
        return example_inputs
    if isinstance(example_inputs, Tensor):
        return Inputs((example_inputs,))
    if isinstance(example_inputs, Mapping):
        return Inputs((), dict(example_inputs))
    if isinstance(example_inputs, (tuple, list)):
        return Inputs(tuple(example_inputs))
    raise InputError(
        "example_inputs must be a tensor, a tuple of inputs or a dict of keyword inputs, "
        f"not {type(example_inputs).__name__}"
    )


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Call the model; an input that it rejects is one clear error.

    Raises
    ------
    InputError
        When the model's forward pass raises.
    """
    try:
        return model(*inputs.args, **inputs.kwargs)
    except InputError:
        # Of what watches the model, which has said what is wrong.
        raise
    except Exception as error:  # the model's code may raise anything
        first = first_line(error)
        raise InputError(
            f"the model rejects the example inputs ({type(error).__name__}: {first}); "
            "pass inputs that model(...) accepts"
        ) from error


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode without gradients; restore every module's mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode without gradients, and leave no trace of what ran inside.

    Every module's mode and buffers are restored, and so is what its code caches on itself: a
    value cached for one size must not meet another. PyTorch's fused transformer fast path is
    switched off inside: it hides the operations.
    """
    held = [(module, _held(module)) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    contents = [
        (buffer, buffer._version, buffer.clone())
        for buffer in model.buffers()
        if not buffer.is_inference()
    ]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with in_eval_mode(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, attributes in held:
            _put_back(module, attributes)
        for module, table in buffers:
            module._buffers.update(table)
        with torch.no_grad():
            for buffer, version, before in contents:
                if buffer._version != version:
                    buffer.copy_(before)


def _held(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Every attribute of a module, with the contents of its own dicts and lists."""
    return {
        key: (value, copy.copy(value) if type(value) in (dict, list) else None)
        for key, value in module.__dict__.items()
        if key not in _REGISTERED
    }


def _put_back(module: nn.Module, attributes: dict[str, tuple[Any, Any]]) -> None:
    for key in [key for key in module.__dict__ if key not in _REGISTERED]:
        if key not in attributes:
            del module.__dict__[key]
    for key, (value, contents) in attributes.items():
        module.__dict__[key] = value
        if contents is not None:
            value.clear()
            value.extend(contents) if isinstance(value, list) else value.update(contents)


_REGISTERED = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})


def named_tensors(value: Any, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in nested tuples, lists, mappings and dataclasses, with its path.

    Objects of other kinds (a key-value cache, a distribution) are opaque and yield nothing.

    Examples
    --------
    >>> [path for path, _ in named_tensors({"a": torch.zeros(1), "b": [torch.zeros(1)]})]
    ['output.a', 'output.b.0']
    """
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}.{key}")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from named_tensors(item, f"{name}.{index}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from named_tensors(getattr(value, field.name), f"{name}.{field.name}")


def replace_tensors(value: Any, change: Callable[[str, Tensor], Tensor], name: str) -> Any:
    """Rebuild what `named_tensors` walks through, with every tensor ``change(path, tensor)``.

    Examples
    --------
    >>> replace_tensors({"a": [torch.ones(1)], "b": 3}, lambda path, tensor: 2 * tensor, "x")
    {'a': [tensor([2.])], 'b': 3}
    """
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        items = {key: replace_tensors(item, change, f"{name}.{key}") for key, item in value.items()}
        if type(value) is dict:
            return items
        # Results of Hugging Face's models are mappings and dataclasses at once.
        rebuilt = copy.copy(value)
        for key, item in items.items():
            rebuilt[key] = item  # type: ignore[index]
        return rebuilt
    if isinstance(value, (tuple, list)):
        listed = [replace_tensors(item, change, f"{name}.{at}") for at, item in enumerate(value)]
        return type(value)(*listed) if hasattr(value, "_fields") else type(value)(listed)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: replace_tensors(getattr(value, field.name), change, f"{name}.{field.name}")
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **fields)
    return value
