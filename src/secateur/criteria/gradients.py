"""Gradients of a loss over batches of data, handed over one parameter at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.observing.batches import Loss, batch_loss
from secateur.observing.reading import Progress, Reading, Receive, finite_loss
from secateur.observing.standins import forward, standing_in

__all__ = ["Progress", "stream_gradients"]


def stream_gradients(
    model: nn.Module,
    names: Iterable[str],
    data: Iterable[Any],
    receive: Receive,
    *,
    after_batch: Callable[[], None],
    loss: Loss | None = None,
    max_batches: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> int:
    """Run every batch forward and backward in eval mode and hand each gradient over.

    A gradient is received as soon as it is complete and freed at once, so memory depends neither
    on the number of batches nor on the number of parameters. The model is not touched: its
    forward pass runs on stand-ins that share the parameters' memory, so ``.grad``,
    ``requires_grad``, hooks on parameters, buffers and training modes stay as they were, and
    frozen parameters get gradients like any other. The global random state is left alone.

    Parameters
    ----------
    model : nn.Module
    names : iterable of str
        Parameters whose gradients are wanted.
    data : iterable
        Batches; see `read_batch`.
    receive : callable
        ``(name, parameter, gradient)``, at most once per batch and parameter; never for a
        parameter that the loss does not depend on.
    after_batch : callable
        Called when a batch is complete.
    loss, max_batches, seed, progress
        See `Reading`.

    Returns
    -------
    int
        Number of batches.

    Raises
    ------
    InputError
        When the data yields no batch, or a batch or the loss cannot be used.
    CriterionError
        When the loss of a batch is not finite.
    """
    reading = Reading(model, data, None, loss, max_batches, seed, progress)
    done = 0
    with standing_in(model, seed) as stand_ins:
        for name in names:
            stand_ins[name].requires_grad_()
            stand_ins[name].register_post_accumulate_grad_hook(_handing(name, receive))
        for inputs, targets in reading.batches():
            outputs = forward(model, stand_ins, inputs)
            value = finite_loss(batch_loss(outputs, targets, loss), done)
            del outputs
            torch.autograd.backward(value)
            after_batch()
            done += 1
    return done


def _handing(name: str, receive: Receive) -> Callable[[Tensor], None]:
    def hook(stand_in: Tensor) -> None:
        gradient, stand_in.grad = stand_in.grad, None
        assert gradient is not None
        if gradient.layout != torch.strided:
            gradient = gradient.to_dense()
        with torch.no_grad():
            receive(name, stand_in.detach(), gradient)

    return hook
