"""Running a model over data, and seeing what passes through its blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.depth.base import Passing, first_tensor
from secateur.inputs import Inputs, evaluating, run

__all__ = ["watch"]


def watch(
    passing: Passing, seen: Callable[[int, Tensor, Tensor], None], done: Callable[[Inputs], None]
) -> int:
    """Call ``seen(block, given, returned)`` at every block, and ``done(inputs)`` after a batch.

    Returns
    -------
    int
        How many batches there were.
    """
    handles = []

    def hook(index: int) -> Callable[..., None]:
        def called(module: nn.Module, args: Any, output: Any) -> None:
            seen(index, args[0].detach(), first_tensor(output).detach())

        return called

    for index, block in enumerate(passing.blocks):
        module = passing.model.get_submodule(block.path)
        handles.append(module.register_forward_hook(hook(index)))
    count = 0
    try:
        with evaluating(passing.model), torch.no_grad():
            for inputs, _ in passing.reading.batches():
                run(passing.model, inputs)
                done(inputs)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    return count
