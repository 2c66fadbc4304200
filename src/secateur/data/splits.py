"""What data is: inputs with labels, in training, validation and test parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.observing.labels import range_of

__all__ = ["Batches", "Data", "Part", "Split", "held_out"]

EVERY = 5
"""One example of so many is held out."""


class Part(Protocol):
    """One part of a data set: all of it in memory, or read as it is asked for.

    Attributes
    ----------
    inputs, labels : Tensor
        Every example at once. A part that is read from files reads them all.
    """

    @property
    def inputs(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def label_range(self) -> tuple[int, int] | None:
        """Smallest and largest class index; None where that is not known without reading."""

    def batches(
        self,
        batch_size: int = 64,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> Iterable[Any]:
        """Batches ``(inputs, labels)``, the same ones in the same order for the same seed."""


class Batches:
    """Batches of one split that can be gone through any number of times.

    Every pass over a shuffled object uses the next permutation of one seeded stream, so two
    objects with the same seed see the same batches in the same order.

    Parameters
    ----------
    inputs : Tensor
        ``[n, ...]``.
    labels : Tensor
        ``[n, ...]``.
    batch_size : int
        Examples per batch; the last batch is smaller when it does not divide ``n``.
    shuffle : bool
        Permute the examples on every pass.
    seed : int
        Seed of the permutations.
    drop_last : bool
        Leave an incomplete last batch out.

    Raises
    ------
    InputError
        When inputs and labels differ in length, or ``batch_size`` is less than 1.

    Examples
    --------
    >>> batches = Batches(torch.arange(5.0), torch.arange(5), batch_size=2)
    >>> [labels.tolist() for _, labels in batches]
    [[0, 1], [2, 3], [4]]
    >>> len(batches)
    3
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        batch_size: int = 64,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if len(inputs) != len(labels):
            raise InputError(
                f"inputs and labels must have one length, not {len(inputs)} and {len(labels)}"
            )
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        self.inputs = inputs
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.inputs), self.batch_size)
        return whole + int(rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.inputs)
        order = torch.randperm(count, generator=self._generator) if self.shuffle else None
        for index in range(len(self)):
            part = slice(index * self.batch_size, (index + 1) * self.batch_size)
            chosen = part if order is None else order[part]
            yield self.inputs[chosen], self.labels[chosen]


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of a data set, in memory.

    Parameters
    ----------
    inputs : Tensor
        ``[n, ...]``: one example in each row.
    labels : Tensor
        ``[n]`` class indices.

    Raises
    ------
    InputError
        When the two differ in length or are empty.

    Examples
    --------
    >>> split = Split(torch.zeros(10, 1, 8, 8), torch.zeros(10, dtype=torch.int64))
    >>> len(split), len(split.batches(4))
    (10, 3)
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise InputError(
                "a split needs one label for every input, "
                f"not {len(self.labels)} for {len(self.inputs)}"
            )
        if not len(self.inputs):
            raise InputError("a split must hold at least one example")

    def __len__(self) -> int:
        return len(self.inputs)

    def label_range(self) -> tuple[int, int] | None:
        """Smallest and largest class index; None for labels that are no class indices."""
        return range_of(self.labels)

    def batches(
        self,
        batch_size: int = 64,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> Batches:
        """Cut the split into `Batches`."""
        return Batches(
            self.inputs,
            self.labels,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )


def held_out(split: Split, seed: int = 0) -> tuple[Split, Split]:
    """Cut a split into what stays and the fifth that is kept for validation.

    Raises
    ------
    InputError
        For a split of one example.

    Examples
    --------
    >>> stays, kept = held_out(Split(torch.arange(10.0), torch.arange(10)))
    >>> len(stays), len(kept)
    (8, 2)
    """
    if len(split) < 2:
        raise InputError("training data of one example leave none for validation; pass 'val'")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    first = max(len(split) // EVERY, 1)
    kept, stays = order[:first].sort().values, order[first:].sort().values
    return (
        Split(split.inputs[stays], split.labels[stays]),
        Split(split.inputs[kept], split.labels[kept]),
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set with its three parts.

    Parameters
    ----------
    name : str
        What it is called on the command line and in reports.
    train, val, test : Part
        Disjoint parts: fit on the first, choose on the second, report on the third.
    classes : tuple of str
        Names of the classes, in the order of the label indices.

    Examples
    --------
    >>> part = Split(torch.zeros(2, 3), torch.tensor([0, 1]))
    >>> Data("tiny", part, part, part, ("no", "yes")).example_inputs.shape
    torch.Size([1, 3])
    """

    name: str
    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...] = ()

    @property
    def example_inputs(self) -> Tensor:
        """The first training example as a batch of one.

        Raises
        ------
        InputError
            When the training part yields no batch.
        """
        for inputs, _ in self.train.batches(1):
            return inputs
        raise InputError(f"{self.name} has no training example that can be read")
