"""The tensors of a model, as a whole: listed, kept and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.masks import apply_masks

__all__ = ["buffers_kept", "channels_last", "contents", "copied", "put_back"]


def contents(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, tied ones once; detached, in the model's own memory.

    Examples
    --------
    >>> list(contents(nn.BatchNorm1d(2)))[:3]
    ['weight', 'bias', 'running_mean']
    """
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Copies of every parameter and buffer."""
    return {name: tensor.clone() for name, tensor in contents(model).items()}


def put_back(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write values into the model's own tensors; what is masked stays zero."""
    with torch.no_grad():
        for name, tensor in contents(model).items():
            if name in values:
                tensor.copy_(values[name])
    apply_masks(model, {})


@contextmanager
def buffers_kept(model: nn.Module, unless: Callable[[], bool]) -> Iterator[None]:
    """Put the buffers back where the body fails: forward passes in training mode move them.

    Parameters
    ----------
    unless : callable
        Asked when the body fails; True leaves the buffers as they are.
    """
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:  # also when stopped
        if not unless():
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)
        raise


@contextmanager
def channels_last(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Lay convolutions' weights out with channels innermost, and afterwards as they were."""
    if not wanted:
        yield
        return
    tensors = (*model.parameters(), *model.buffers())
    plain = [tensor for tensor in tensors if tensor.ndim == 4 and tensor.is_contiguous()]
    for tensor in plain:
        tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for tensor in plain:
            tensor.data = tensor.data.contiguous()
