"""Reading: each process only the rows of a batch that it computes, where the source allows it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from secateur.observing.standins import all_seeded
from secateur.ranks import Ranks
from secateur.recover.generators import Generators

__all__ = ["OwnRows", "Shared", "digest_of", "rows_of", "shares_of"]


@dataclasses.dataclass(frozen=True)
class OwnRows:
    """The rows of one batch that this process computes.

    Attributes
    ----------
    batch : (Tensor, Tensor) or None
        At least one row: one that another process has too, where there is none for this one. None
        where none of the batch can be read.
    count : int
        How many are this process's own.
    of : str
        What batch it is of, equal in every process.
    """

    batch: Any
    count: int
    of: str


@runtime_checkable
class Shared(Protocol):
    """Batches that can be read in shares."""

    def shares(self, ranks: Ranks) -> Iterator[Any]:
        """The first batch whole, so that processes can compare it; then `OwnRows` of each."""


def rows_of(total: int, ranks: Ranks) -> tuple[slice, float]:
    """Which of so many rows are this process's, and what share of them; never none.

    Examples
    --------
    >>> from secateur.ranks import ALONE
    >>> rows_of(3, ALONE)
    (slice(0, 3, None), 1.0)
    """
    first = ranks.rank * total // ranks.size
    end = (ranks.rank + 1) * total // ranks.size
    if end == first:
        return slice(0, 1), 0.0
    return slice(first, end), (end - first) / total


def shares_of(batches: Iterable[Any], ranks: Ranks, seed: int) -> Iterable[Any] | None:
    """Rows of each batch for this process; None where batches can only be read whole.

    Parameters
    ----------
    batches : iterable
        `Shared`, or a `torch.utils.data.DataLoader` over a data set with indices that puts rows
        together as PyTorch does by default: what another function makes of a batch may depend on
        all of its rows, and a data set with a generator of its own would draw other numbers.
    ranks : Ranks
    seed : int
        Of what the data set draws, together with the process.
    """
    if ranks.size == 1:
        return None
    if isinstance(batches, Shared):
        return batches.shares(ranks)
    if type(batches) is not DataLoader or batches.batch_sampler is None:
        return None
    plain = batches.collate_fn is default_collate and getattr(batches, "in_order", True)
    if not plain or isinstance(batches.dataset, IterableDataset):
        return None
    if Generators([batches.dataset], torch.device("cpu")).held:
        return None
    return _loaded(batches, ranks, seed)


def _loaded(loader: DataLoader[Any], ranks: Ranks, seed: int) -> Iterator[Any]:
    assert loader.batch_sampler is not None
    batches = _OwnBatches(loader.batch_sampler, ranks)
    own: DataLoader[Any] = DataLoader(
        _Drawing(loader.dataset, seed, ranks.rank),
        batch_sampler=batches,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )
    for number, batch in enumerate(own):
        count, of = batches.noted.popleft()
        yield OwnRows(batch, count, of) if number else batch


class _OwnBatches:
    """What a sampler asks for, batch by batch: all of the first, and its own rows of the others.

    Attributes
    ----------
    noted : deque of (int, str)
        How many rows are its own and what batch it is, in the order of reading: workers ask for
        batches before they are needed.
    """

    def __init__(self, sampler: Iterable[Sequence[Any]], ranks: Ranks) -> None:
        self._sampler, self._ranks = sampler, ranks
        self.noted: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._sampler):
            indices = list(batch)
            rows, share = rows_of(len(indices), self._ranks)
            self.noted.append((len(indices[rows]) if share else 0, digest_of(indices)))
            yield number, indices[rows] if number else indices


class _Drawing(Dataset[Any]):
    """A data set whose draws leave the order of the batches alone, and differ between processes."""

    def __init__(self, dataset: Dataset[Any], seed: int, rank: int) -> None:
        self._dataset, self._seed, self._rank = dataset, seed, rank

    def __getitems__(self, asked: tuple[int, list[Any]]) -> list[Any]:
        number, indices = asked
        drawn = [self._seed, number, self._rank if number else "all"]
        with all_seeded(int(digest_of(drawn), 16)):
            if hasattr(self._dataset, "__getitems__"):
                return self._dataset.__getitems__(indices)
            return [self._dataset[index] for index in indices]


def digest_of(value: Any) -> str:
    """Eight digits that tell values apart."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
