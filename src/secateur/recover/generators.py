"""Every source of random numbers that training draws from: read, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Generators"]

# How far inside a loader a generator may lie: data set, its subset, composed transform, its list,
# one transform of it, generator.
DEPTH = 6
# A data set's list of files is not searched.
LONGEST = 64


class Generators:
    """The global generators of PyTorch, Python and NumPy, and those that data loaders hold.

    Parameters
    ----------
    loaders : object
        What batches are read from; generators are found in its attributes, a few levels deep.
    device : torch.device
        A CUDA device's own generator is one of them.

    Attributes
    ----------
    held : list
        Those that the loaders hold.

    Examples
    --------
    >>> from secateur.data import Batches
    >>> loader = Batches(torch.arange(4), torch.arange(4), batch_size=4, shuffle=True)
    >>> generators = Generators([loader], torch.device("cpu"))
    >>> state = generators.state()
    >>> first = next(iter(loader))[0]
    >>> generators.load(state)
    >>> torch.equal(next(iter(loader))[0], first)
    True
    """

    def __init__(self, loaders: list[Any], device: torch.device) -> None:
        self.held = list(_generators_in(loaders))
        self._device = device

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; `load` takes it back."""
        cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return {
            "torch": torch.get_rng_state(),
            "cuda": cuda,
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002
            "held": [_state(generator) for generator in self.held],
        }

    def load(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], self._device)
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        for generator, value in zip(self.held, state["held"], strict=True):
            if isinstance(generator, torch.Generator):
                generator.set_state(value)
            elif isinstance(generator, random.Random):
                generator.setstate(value)
            elif isinstance(generator, np.random.RandomState):
                generator.set_state(value)
            else:
                generator.bit_generator.state = value


_KINDS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.bit_generator.state


def _generators_in(loaders: list[Any]) -> Iterator[Any]:
    """Every generator once, in an order that depends on the loaders' attributes alone."""
    seen: set[int] = set()
    level = list(loaders)
    for _ in range(DEPTH + 1):
        inside: list[Any] = []
        for value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, _KINDS):
                yield value
            elif isinstance(value, (list, tuple)):
                inside += value if len(value) <= LONGEST else ()
            elif isinstance(value, dict):
                inside += value.values() if len(value) <= LONGEST else ()
            elif not isinstance(value, (Tensor, nn.Module, type, ModuleType)):
                inside += vars(value).values() if hasattr(value, "__dict__") else ()
        level = inside
