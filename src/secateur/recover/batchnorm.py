"""Batch-norm recalibration: running statistics that fit the model as it is now."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.errors import InputError
from secateur.inputs import Inputs, in_eval_mode
from secateur.observing.batches import read_batch
from secateur.recover.batches import device_of, forward

__all__ = ["recalibrate_batchnorm"]


def recalibrate_batchnorm(
    model: nn.Module, batches: Iterable[Any], *, max_batches: int | None = None
) -> int:
    """Recompute the running statistics of every batch norm from data, and nothing else.

    Removing channels shifts the distribution of every later activation, so statistics gathered
    before no longer fit. They are reset and averaged anew over the batches (a cumulative
    average, every batch with the same weight) in forward passes without gradients, in which
    only the batch norms run in training mode: dropout and everything else stay in eval mode.
    See EagleEye (Li et al. 2020, arXiv 2007.02491).

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place: the buffers of its batch norms. Parameters stay bit-identical, and
        training modes and momenta are restored.
    batches : iterable
        Training batches: a tensor of inputs, pairs ``(inputs, targets)``, or dicts of keyword
        inputs. As they are in training, augmentation included: on images as they are, a network
        that has learned on shifted and mirrored ones loses several points of accuracy, whether
        it was pruned or not. A shuffled pass of `secateur.data` is what training is given.
    max_batches : int, optional
        Stop after this many. All of them by default.

    Returns
    -------
    int
        How many batches were used; 0 when the model has no batch norm with running statistics.

    Raises
    ------
    InputError
        When there are no batches, or a batch norm gets a single value per channel (batch size
        1 over 1 x 1 maps), or the model rejects a batch. The statistics are then as before.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.BatchNorm1d(2)).eval()
    >>> recalibrate_batchnorm(model, [torch.tensor([[0.0, 1.0], [2.0, 5.0]])])
    1
    >>> model[0].running_mean.tolist(), model[0].running_var.tolist()
    ([1.0, 3.0], [2.0, 8.0])
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return 0
    device = device_of(model)
    momenta = [norm.momentum for norm in norms]
    before = [_statistics(norm) for norm in norms]
    used = 0
    try:
        with in_eval_mode(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            for batch in itertools.islice(batches, max_batches):
                forward(model, _inputs(batch, device))
                used += 1
        if not used:
            raise InputError(
                "no batches to recalibrate batch norm on; pass at least one training batch "
                "(an exhausted generator yields none twice)"
            )
    except BaseException:  # also when stopped
        for norm, saved in zip(norms, before, strict=True):
            _restore(norm, saved)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for norm, saved in zip(norms, before, strict=True):
        # A layer that no batch reached would be left with mean 0 and variance 1.
        if norm.num_batches_tracked is not None and not int(norm.num_batches_tracked):
            _restore(norm, saved)
    return used


def _inputs(batch: Any, device: torch.device) -> Inputs:
    """The model's inputs, from a batch with targets or without."""
    if isinstance(batch, Tensor):
        batch = (batch, None)
    return read_batch(batch, device)[0]


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    return [buffer.clone() for _, buffer in norm.named_buffers(recurse=False)]


def _restore(norm: _BatchNorm, saved: list[Tensor]) -> None:
    for (_, buffer), value in zip(norm.named_buffers(recurse=False), saved, strict=True):
        buffer.copy_(value)
