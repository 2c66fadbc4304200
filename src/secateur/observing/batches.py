"""Batches of data: from what a loader yields to one number, the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.errors import InputError
from secateur.inputs import Inputs, as_inputs
from secateur.observing.labels import check_range, range_of

__all__ = ["Loss", "batch_loss", "default_loss", "read_batch"]

Loss = Callable[[Any, Any], Tensor]


def read_batch(batch: Any, device: torch.device | None = None) -> tuple[Inputs, Any]:
    """Split a batch into the model's inputs and the targets, moved to the model's device.

    Parameters
    ----------
    batch : (inputs, targets) or dict
        Inputs as in ``example_inputs``. A dict holds keyword inputs, targets among them, as
        Hugging Face models take them; the targets returned are then the dict itself.
    device : torch.device or None
        Where to put its tensors; None leaves them.

    Raises
    ------
    InputError
        For anything else.

    Examples
    --------
    >>> inputs, targets = read_batch((torch.zeros(2, 3), torch.tensor([0, 1])))
    >>> inputs.args[0].shape, targets
    (torch.Size([2, 3]), tensor([0, 1]))
    """
    if isinstance(batch, Mapping):
        batch = _to({**batch}, device)
        return Inputs((), batch), batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = _to(tuple(batch), device)
        return as_inputs(inputs), targets
    described = type(batch).__name__
    if isinstance(batch, (tuple, list)):
        described += f" of {len(batch)}"
    raise InputError(
        f"a batch of data must be (inputs, targets) or a dict of keyword inputs, not {described}"
    )


def batch_loss(outputs: Any, targets: Any, loss: Loss | None) -> Tensor:
    """Return the loss of one batch as a scalar.

    Raises
    ------
    InputError
        When there is no default for these outputs and targets, or the loss is not one number
        that depends on the model's parameters.
    """
    value = default_loss(outputs, targets) if loss is None else loss(outputs, targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"loss(outputs, targets) must return a tensor with one number, not {found}"
        )
    if not value.requires_grad:
        raise InputError(
            "the loss does not depend on the model's parameters; "
            "remove detach() or torch.no_grad() from the model's forward pass or the loss"
        )
    return value.reshape(())


def default_loss(outputs: Any, targets: Any) -> Tensor:
    """Return the output's own ``.loss``, or the cross entropy with integer targets.

    Examples
    --------
    >>> default_loss(torch.zeros(2, 4), torch.tensor([0, 1]))
    tensor(1.3863)
    """
    own = None if isinstance(outputs, Tensor) else _field(outputs, "loss")
    if own is not None:
        return own
    if isinstance(targets, Mapping):
        raise InputError(
            "the model's output has no .loss for a dict batch; "
            "put the labels into the batch or pass loss=f(outputs, batch)"
        )
    logits = outputs if isinstance(outputs, Tensor) else _field(outputs, "logits")
    if logits is None:
        raise InputError(
            f"no default loss for an output of type {type(outputs).__name__}; "
            "pass loss=f(outputs, targets)"
        )
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
        found = str(targets.dtype) if isinstance(targets, Tensor) else type(targets).__name__
        raise InputError(
            f"the default loss is cross entropy with integer targets, not {found}; "
            "pass loss=f(outputs, targets)"
        )
    if logits.shape[:1] + logits.shape[2:] == targets.shape:
        return _cross_entropy(logits, targets.long())
    if logits.shape[:-1] == targets.shape:
        return _cross_entropy(logits.flatten(0, -2), targets.long().flatten())
    raise InputError(
        f"the default loss cannot match outputs of shape {tuple(logits.shape)} with targets of "
        f"shape {tuple(targets.shape)}; pass loss=f(outputs, targets)"
    )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.device.type != "cpu":
        # There the kernel would take the whole process down.
        check_range("labels of a batch", range_of(labels), logits.shape[1])
    try:
        return functional.cross_entropy(logits, labels)
    except IndexError:
        check_range("labels of a batch", range_of(labels), logits.shape[1])
        raise


def _field(outputs: Any, name: str) -> Tensor | None:
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    return value if isinstance(value, Tensor) else None


def _to(value: Any, device: torch.device | None) -> Any:
    if isinstance(value, Tensor):
        # Autograd refuses tensors that were made in inference mode; their copies are ordinary.
        value = value.clone() if value.is_inference() else value
        return value if device is None else value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_to(item, device) for item in value)
    return value
