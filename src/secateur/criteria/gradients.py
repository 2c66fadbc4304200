"""Gradients of a loss over batches of data, handed over one parameter at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.criteria.batches import Loss, batch_loss, read_batch
from secateur.errors import CriterionError, InputError, first_line
from secateur.inputs import evaluating

__all__ = ["Progress", "stream_gradients"]

Progress = Callable[[int, "int | None"], None]


def stream_gradients(
    model: nn.Module,
    names: Iterable[str],
    data: Iterable[Any],
    receive: Callable[[str, Tensor, Tensor], None],
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
    loss : callable or None
        ``loss(outputs, targets) -> scalar``; None for `default_loss`.
    max_batches : int or None
        Stop after so many batches.
    seed : int
        Seeds torch's generators for the data loader and any randomness in the model.
    progress : callable or None
        ``(batches done, batches in all or None)``.

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
    parameters = dict(model.named_parameters())
    device = next((value.device for value in parameters.values()), None)
    total = _length(data)
    if max_batches is not None:
        total = max_batches if total is None else min(total, max_batches)
    done = 0
    with (
        evaluating(model),
        _plain_attributes_kept(model),
        _seeded(seed),
        _recurrent(model),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        stand_ins: dict[str, Tensor] = {
            n: p.detach().clone() if p.is_inference() else p.detach() for n, p in parameters.items()
        }
        for name in names:
            stand_ins[name].requires_grad_()
            stand_ins[name].register_post_accumulate_grad_hook(_handing(name, receive))
        for batch in data:
            if done == max_batches:
                break
            inputs, targets = read_batch(batch, device)
            # Buffers are copied, so that a layer that updates its own in eval mode cannot.
            tensors = stand_ins | {n: b.clone() for n, b in model.named_buffers()}
            outputs = _forward(model, tensors, inputs.args, inputs.kwargs)
            value = batch_loss(outputs, targets, loss)
            if not torch.isfinite(value):
                raise CriterionError(
                    f"the loss of batch {done} is {value.item()}; "
                    "check the data, or the model's precision"
                )
            del outputs
            torch.autograd.backward(value)
            after_batch()
            done += 1
            if progress is not None:
                progress(done, total)
    if done == 0:
        raise InputError(
            "data has no batch; pass an iterable of (inputs, targets) batches that can be "
            "iterated again, such as a DataLoader or a list"
        )
    return done


def _handing(name: str, receive: Callable[[str, Tensor, Tensor], None]) -> Callable[[Tensor], None]:
    def hook(stand_in: Tensor) -> None:
        gradient, stand_in.grad = stand_in.grad, None
        assert gradient is not None
        if gradient.layout != torch.strided:
            gradient = gradient.to_dense()
        with torch.no_grad():
            receive(name, stand_in.detach(), gradient)

    return hook


def _forward(
    model: nn.Module, tensors: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    try:
        return torch.func.functional_call(model, tensors, args, kwargs)
    except Exception as error:
        first = first_line(error)
        raise InputError(
            f"the model rejects a batch of data ({type(error).__name__}: {first}); "
            "a batch is (inputs, targets) or a dict of keyword inputs"
        ) from error


def _length(data: Iterable[Any]) -> int | None:
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None


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
def _seeded(seed: int) -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _recurrent(model: nn.Module) -> Iterator[None]:
    """Avoid cuDNN's recurrent layers, which have no backward pass in eval mode."""
    cuda = any(p.is_cuda for p in model.parameters())
    if cuda and any(isinstance(module, nn.RNNBase) for module in model.modules()):
        with torch.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield
