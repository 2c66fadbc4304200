"""One forward pass over a batch, and the class labels in it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError, first_line
from secateur.inputs import Inputs, named_tensors
from secateur.observing.batches import read_batch

__all__ = ["count_hits", "device_of", "examples_in", "forward", "predict"]


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU when it has none."""
    first = next(itertools.chain[Tensor](model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def forward(model: nn.Module, inputs: Inputs, name: str = "the model") -> Any:
    """Call the model on a batch; `name` is what messages call it.

    Raises
    ------
    InputError
        When the forward pass raises; a batch norm's single value per channel is told apart.
    """
    try:
        return model(*inputs.args, **inputs.kwargs)
    except Exception as error:  # the model's code may raise anything
        first = first_line(error)
        if first.startswith("Expected more than 1 value per channel"):
            raise InputError(
                "batch norm has no statistics over a single value per channel (batch size 1 "
                "over 1 x 1 maps); pass batches of at least 2 examples"
            ) from error
        raise InputError(
            f"{name} rejects a batch of data ({type(error).__name__}: {first})"
        ) from error


def predict(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Run the model on a batch, ``(inputs, targets)`` or a dict; return output and targets.

    Raises
    ------
    InputError
        When the batch has another shape, or the model rejects the inputs.
    """
    inputs, targets = read_batch(batch, device_of(model))
    return forward(model, inputs), targets


def examples_in(targets: Any) -> int:
    """How many examples a batch's targets stand for: the first dimension of their first tensor.

    Examples
    --------
    >>> examples_in({"labels": torch.zeros(4)}), examples_in(None)
    (4, 1)
    """
    for _, tensor in named_tensors(targets):
        if tensor.ndim:
            return len(tensor)
    return 1


def count_hits(output: Any, targets: Any) -> tuple[int, int]:
    """Correctly classified labels and labels in all; ``(0, 0)`` without class labels.

    Parameters
    ----------
    output : Tensor or object with ``.logits``
        Class scores ``[n, classes, ...]``.
    targets : Tensor or mapping
        Class indices ``[n, ...]``, or a mapping with them as ``"labels"``.

    Examples
    --------
    >>> count_hits(torch.eye(3), torch.tensor([0, 1, 0]))
    (2, 3)
    >>> count_hits(torch.zeros(3), torch.zeros(3))
    (0, 0)
    """
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    labels = targets.get("labels") if isinstance(targets, Mapping) else targets
    if not isinstance(scores, Tensor) or not isinstance(labels, Tensor):
        return 0, 0
    if labels.is_floating_point() or scores.shape[:1] + scores.shape[2:] != labels.shape:
        return 0, 0
    return int((scores.argmax(dim=1) == labels).sum()), labels.numel()
