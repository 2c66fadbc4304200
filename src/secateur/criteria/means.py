"""Means over data of a gradient and its square: one tensor a parameter, however much data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.criteria.elementwise import working_dtype
from secateur.criteria.gradients import stream_gradients
from secateur.errors import InputError
from secateur.inputs import named_tensors, replace_tensors
from secateur.observing.reading import Reading

__all__ = ["Mean", "Samples", "each_sample_gradient", "mean_gradients", "sample_gradients"]


class Mean:
    """A running mean of tensors, in float32 or better.

    Examples
    --------
    >>> mean = Mean()
    >>> for value in (1.0, 2.0, 6.0):
    ...     mean.add("w", torch.tensor([value]))
    >>> mean.over(3)["w"]
    tensor([3.])
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        if name in self._sums:
            self._sums[name] += value
        else:
            self._sums[name] = value.detach().to(working_dtype(value.dtype), copy=True)

    def over(self, count: int) -> dict[str, Tensor]:
        return {name: total / count for name, total in self._sums.items()}


def mean_gradients(reading: Reading, names: Iterable[str]) -> dict[str, Tensor]:
    """The mean over batches of the gradient of every batch's loss.

    A parameter that no loss depends on is left out.
    """
    mean = Mean()
    done = stream_gradients(
        reading.model,
        names,
        reading.data,
        lambda name, weight, gradient: mean.add(name, _given(gradient)),
        after_batch=lambda: None,
        loss=reading.loss,
        max_batches=reading.max_batches,
        seed=reading.seed,
        progress=reading.progress,
    )
    return mean.over(done)


def sample_gradients(
    reading: Reading, names: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means over samples of the gradient of every sample's own loss, and of its square.

    The square of a batch's mean gradient is another quantity: gradients of different samples
    cancel in it. Every sample is run on its own, so any model and loss will do.

    Raises
    ------
    InputError
        When a batch has no tensor to count its samples by.
    """
    first, second = Mean(), Mean()

    def receive(name: str, gradient: Tensor) -> None:
        first.add(name, gradient)
        second.add(name, gradient.square())

    done = each_sample_gradient(reading, names, receive)
    return first.over(done), second.over(done)


def each_sample_gradient(
    reading: Reading, names: Iterable[str], receive: Callable[[str, Tensor], None]
) -> int:
    """Hand over the gradients of every sample's own loss, in working precision.

    Parameters
    ----------
    reading : Reading
    names : iterable of str
        Parameters.
    receive : callable
        ``(parameter, gradient)``; a parameter that no loss depends on is left out.

    Returns
    -------
    int
        Number of samples.

    Raises
    ------
    InputError
        When a batch has no tensor to count its samples by.
    """

    def handed(name: str, weight: Tensor, gradient: Tensor | None) -> None:
        given = _given(gradient)
        receive(name, given.to(working_dtype(given.dtype)))

    return stream_gradients(
        reading.model,
        names,
        Samples(reading),
        handed,
        after_batch=lambda: None,
        loss=reading.loss,
        seed=reading.seed,
    )


class Samples:
    """The samples of every batch, each a batch of one."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def __iter__(self) -> Iterator[Any]:
        for inputs, targets in self.reading.batches():
            # A dict batch holds its targets among the inputs.
            both = inputs.kwargs is targets
            whole = (inputs.kwargs,) if both else (inputs.args, inputs.kwargs, targets)
            for part in _split(whole):
                yield part[0] if both else _batch(*part)


def _batch(args: tuple[Any, ...], kwargs: Mapping[str, Any], targets: Any) -> tuple[Any, Any]:
    return (dict(kwargs) if kwargs else args, targets)


def _split(whole: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    tensors = [tensor for _, tensor in named_tensors(whole, "batch") if tensor.ndim]
    if not tensors:
        raise InputError("a batch of data holds no tensor with samples along its first dimension")
    count = tensors[0].shape[0]

    def one(at: int) -> Any:
        # What has no entry for every sample (a mask over positions, say) serves all of them.
        return lambda _, tensor: (
            tensor[at : at + 1] if tensor.ndim and tensor.shape[0] == count else tensor
        )

    for at in range(count):
        yield replace_tensors(whole, one(at), "batch")


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return torch.as_tensor(gradient)
