"""Run a model without touching it: on stand-ins that share its parameters' memory."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import InputError, first_line
from secateur.inputs import Inputs, evaluating

__all__ = ["all_seeded", "forward", "seeded", "standing_in"]


@contextlib.contextmanager
def standing_in(model: nn.Module, seed: int) -> Iterator[dict[str, Tensor]]:
    """Eval mode with gradients on; yields a stand-in for every parameter, by its name.

    Parameters, ``.grad``, ``requires_grad``, hooks on parameters, buffers, training modes and the
    global random state are afterwards as they were.

    Examples
    --------
    >>> net = nn.Linear(2, 1).requires_grad_(False)
    >>> with standing_in(net, seed=0) as tensors:
    ...     shared = tensors["weight"].data_ptr() == net.weight.data_ptr()
    ...     tensors["weight"].requires_grad_().sum().backward()
    >>> shared, net.weight.grad is None
    (True, True)
    """
    with (
        evaluating(model),
        _plain_attributes_kept(model),
        seeded(seed),
        _recurrent(model),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield {
            name: p.detach().clone() if p.is_inference() else p.detach()
            for name, p in model.named_parameters()
        }


def forward(model: nn.Module, stand_ins: Mapping[str, Tensor], inputs: Inputs) -> Any:
    """Call the model on stand-ins and on copies of its buffers.

    Raises
    ------
    InputError
        When the model rejects the batch.
    """
    tensors = _everywhere(model, stand_ins)
    try:
        return torch.func.functional_call(
            model, tensors, inputs.args, inputs.kwargs, tie_weights=False
        )
    except Exception as error:  # the model's code may raise anything
        first = first_line(error)
        raise InputError(
            f"the model rejects a batch of data ({type(error).__name__}: {first}); "
            "a batch is (inputs, targets) or a dict of keyword inputs"
        ) from error


def _everywhere(model: nn.Module, stand_ins: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stand-ins and copies of buffers, under the name of every place, once for each.

    PyTorch does the same for tied weights, but takes a module under two names for two, and then
    leaves stand-ins in it.
    """
    named = {id(tensor): name for name, tensor in model.named_parameters()}
    named |= {id(tensor): name for name, tensor in model.named_buffers()}
    # Buffers are copied, so that a layer that updates its own in eval mode cannot.
    given = dict(stand_ins)
    given |= {n: b.clone() for n, b in model.named_buffers() if n not in stand_ins}
    found = {}
    for path, module in model.named_modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            name = named.get(id(tensor))
            if name is not None and name in given:
                found[f"{path}.{leaf}" if path else leaf] = given[name]
    return found


@contextlib.contextmanager
def _plain_attributes_kept(model: nn.Module) -> Iterator[None]:
    """Restore tensors that modules keep as plain attributes (old-style weight norm does)."""
    kept = [
        (module, key, value)
        for module in model.modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    try:
        yield
    finally:
        for module, key, value in kept:
            vars(module)[key] = value


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global random state set, and afterwards as it was."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def all_seeded(seed: int) -> Iterator[None]:
    """Every global random state set, and afterwards as it was."""
    state, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with seeded(seed):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)  # noqa: NPY002


@contextlib.contextmanager
def _recurrent(model: nn.Module) -> Iterator[None]:
    """Avoid cuDNN's recurrent layers, which have no backward pass in eval mode."""
    cuda = any(p.is_cuda for p in model.parameters())
    if cuda and any(isinstance(module, nn.RNNBase) for module in model.modules()):
        with torch.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield
