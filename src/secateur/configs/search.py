"""Changing entries of a configuration until the class builds what is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from secateur.graph.trace import named_state
from secateur.quiet import quiet
from secateur.surgery.configured import entries, with_values

__all__ = ["Cut", "Search", "Shapes", "shapes_of"]

Shapes: TypeAlias = dict[str, tuple[int, ...]]
Cut: TypeAlias = tuple[int, list[int]]
"""The length of a list that entries are left out of, and the places of those."""


class Search:
    """Changes entries of a configuration, one at a time, as long as more tensors fit."""

    def __init__(self, kind: type[nn.Module], config: Any, wanted: Shapes, cuts: list[Cut]) -> None:
        self.kind, self.config, self.wanted, self.cuts = kind, config, wanted, cuts
        # What kind of layer each is leaves no trace in sizes, so such lists follow unasked.
        self.values: dict[str, Any] = {
            name: shorter
            for name, value in entries(config)
            for shorter in self._shorter(value)
            if all(isinstance(each, str) for each in value)
        }
        self.best: Shapes = {}
        # Entries that no tensor's shape depends on: building takes longest.
        self.inert: set[str] = set()
        self.built: nn.Module | None = None
        self.wrong = self.tried(self.values)

    def improved(self, sizes: list[tuple[int, int]]) -> Mapping[str, Any]:
        progress = True
        while self.wrong and progress:
            self.tried(self.values)
            progress, now = False, self.best
            for name, value in self._candidates(sizes):
                if name in self.inert:
                    continue
                wrong = self.tried(self.values | {name: value})
                if wrong is not None and self.best == now:
                    self.inert.add(name)
                if wrong is not None and wrong < (self.wrong or 0):
                    self.values[name], self.wrong, progress = value, wrong, True
                    break
        if self.values:
            self.tried(self.values)
        return self.values

    def _candidates(self, sizes: list[tuple[int, int]]) -> Iterator[tuple[str, Any]]:
        """Entries, with values that sizes which changed suggest; likelier ones first."""
        exact, scaled, listed = [], [], []
        for name, value in entries(with_values(self.config, self.values)):
            if name.endswith(("_id", "_ids")) or isinstance(value, bool):
                continue
            listed += [(name, shorter) for shorter in self._shorter(value)]
            listed += [(name, other) for other in _one_changed(value, sizes)]
            if value is None:
                exact += [(name, new) for _, new in sizes]
            elif isinstance(value, int) and value > 1:
                for old, new in sizes:
                    if value == old:
                        exact.append((name, new))
                    elif value < old and value * new % old == 0 and value * new // old > 0:
                        scaled.append((name, value * new // old))
        yield from (*dict.fromkeys((*exact, *scaled)), *listed)

    def _shorter(self, value: Any) -> Iterator[Any]:
        """A list with an entry for every layer, without those of the layers that went."""
        if isinstance(value, (list, tuple)) and value:
            for length, gone in self.cuts:
                if len(value) == length:
                    yield type(value)(each for at, each in enumerate(value) if at not in gone)

    def tried(self, values: Mapping[str, Any]) -> int | None:
        """How many tensors differ in shape from what is wanted; None where nothing is built."""
        try:
            with quiet(), torch.device("meta"), torch.random.fork_rng(devices=[]):
                built = self.kind(with_values(self.config, values))
        except Exception:
            return None
        found = shapes_of(built)
        self.best, self.built = found, built
        names = {*found, *self.wanted}
        return sum(found.get(name) != self.wanted.get(name) for name in names)


def _one_changed(value: Any, sizes: list[tuple[int, int]]) -> Iterator[Any]:
    """A list of sizes with one of them changed."""
    if isinstance(value, (list, tuple)):
        for at, each in enumerate(value):
            for old, new in sizes:
                if type(each) is int and each == old:
                    yield type(value)((*value[:at], new, *value[at + 1 :]))


def shapes_of(model: nn.Module) -> Shapes:
    """Shape of every tensor of a model."""
    return {name: tuple(tensor.shape) for name, tensor in named_state(model).items()}
