"""Running one block of a model by itself, on what the whole model would have given it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.inputs import evaluating, replace_tensors
from secateur.observing.batches import read_batch

__all__ = ["Call", "calls_of", "lent"]


@dataclasses.dataclass
class Call:
    """What a block is called with for one batch; the first argument passes through.

    Attributes
    ----------
    passing : Tensor
        On the CPU, in the model's dtype.
    args, kwargs
        What else it is given: masks, positions.
    """

    passing: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, block: nn.Module, device: torch.device) -> Tensor:
        """What the block returns, on the device."""

        def there(name: str, tensor: Tensor) -> Tensor:
            return tensor.to(device)

        output = block(
            self.passing.to(device),
            *replace_tensors(self.args, there, "args"),
            **{key: replace_tensors(each, there, key) for key, each in self.kwargs.items()},
        )
        while isinstance(output, (tuple, list)):
            output = output[0]
        if not isinstance(output, Tensor):
            raise InputError("a block returned no tensor")
        return output


class _Reached(Exception):
    """The block was reached: what comes after it is of no interest."""


def calls_of(
    model: nn.Module, block: nn.Module, data: Iterable[Any], device: torch.device
) -> list[Call]:
    """Run the model as far as a block, and keep what the block is given, batch by batch.

    Raises
    ------
    InputError
        When there is no batch, or the model never gets there.
    """
    found: list[Call] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first, *others = args
        # A cache would grow with every call.
        plain = {key: value for key, value in kwargs.items() if "past_key_value" not in key}
        found.append(Call(first.detach().cpu(), tuple(others), plain))
        raise _Reached

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with evaluating(model), torch.no_grad():
            for batch in data:
                inputs, _ = read_batch(batch, device)
                with contextlib.suppress(_Reached):
                    model(*inputs.args, **inputs.kwargs)
    finally:
        handle.remove()
    if not found:
        raise InputError(
            "data has no batch that reaches the model's blocks; pass a list or a DataLoader of "
            "(inputs, targets)"
        )
    return found


@contextlib.contextmanager
def lent(block: nn.Module, device: torch.device) -> Iterator[None]:
    """A block on another device, and back where it was afterwards."""
    home = next((p.device for p in block.parameters()), device)
    if home != device:
        block.to(device)
    try:
        yield
    finally:
        if home != device:
            block.to(home)
