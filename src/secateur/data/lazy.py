"""Parts that are read from files while they are gone through, by seeded workers."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secateur.data.images import Pixels
from secateur.errors import InputError, first_line
from secateur.observing.labels import range_of
from secateur.ranks import Ranks
from secateur.recover.sharing import OwnRows, digest_of, rows_of

__all__ = ["Bad", "ImageFiles", "ImagePart"]

_MOST_WARNED = 3

Asked: TypeAlias = tuple[int, int | None]
"""A row, and the seed of its augmentation."""


class ImageFiles(Protocol):
    """Encoded images with their labels."""

    labels: Tensor
    """``[n]`` class indices."""

    def name(self, index: int) -> str:
        """What an image is called in messages: its file, or its file and row."""

    def read(self, index: int) -> bytes:
        """The encoded image."""


@dataclasses.dataclass(frozen=True)
class Bad:
    """An image or row that is left out, and why."""

    name: str
    reason: str


@dataclasses.dataclass
class _Read:
    """One batch as a worker hands it over."""

    inputs: Tensor | None
    labels: Tensor
    bad: list[Bad]
    odd: str = ""


class ImagePart:
    """Images of files, decoded when they are asked for.

    A shuffled pass is for training, and augments as the options say; another pass does not. Order
    and augmentation depend on the seed, the number of the pass and the image alone, not on the
    number of workers.

    Parameters
    ----------
    name : str
        For messages.
    files : ImageFiles
    rows : sequence of int
        Which of them.
    pixels : Pixels

    Attributes
    ----------
    bad : dict of str to str
        What was left out so far and why, by file or row.

    Raises
    ------
    InputError
        Without a row; on reading, for a bad one with ``strict``, and for images of several sizes.
    """

    def __init__(self, name: str, files: ImageFiles, rows: Sequence[int], pixels: Pixels) -> None:
        if not len(rows):
            raise InputError(f"{name} must hold at least one example; it has zero rows")
        self.name = name
        self.files = files
        self.rows = np.asarray(rows, dtype=np.int64)
        self.pixels = pixels
        self.bad: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def inputs(self) -> Tensor:
        """Every image, unaugmented, ``[n, channels, height, width]``; reads them all."""
        return torch.cat([inputs for inputs, _ in self.batches()])

    @property
    def labels(self) -> Tensor:
        """The labels of ``inputs``; reads them all, for a bad image has none."""
        return torch.cat([labels for _, labels in self.batches()])

    def label_range(self) -> tuple[int, int] | None:
        """Smallest and largest class index."""
        return range_of(self.files.labels[torch.from_numpy(self.rows)])

    def batches(
        self,
        batch_size: int = 64,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> ImageBatches:
        """Batches ``(images, labels)``; a batch with a bad image is smaller by it."""
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        return ImageBatches(self, batch_size, shuffle, seed, drop_last)

    def note(self, found: Iterable[Bad]) -> None:
        """Count what is bad; say so of the first few."""
        for each in found:
            if self.pixels.options.strict:
                raise InputError(f"{each.name} cannot be read ({each.reason})")
            if each.name in self.bad:
                continue
            self.bad[each.name] = each.reason
            if len(self.bad) <= _MOST_WARNED:
                more = "; further ones are only counted" if len(self.bad) == _MOST_WARNED else ""
                warnings.warn(
                    f"left out {each.name}, which cannot be read ({each.reason}){more}",
                    stacklevel=4,
                )


@dataclasses.dataclass
class ImageBatches:
    """Batches of a part; every pass over a shuffled object has another order."""

    part: ImagePart
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool

    def __post_init__(self) -> None:
        # Its state says which pass is the next, so that training can go on from a checkpoint.
        self._generator = torch.Generator().manual_seed(self.seed)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.part), self.batch_size)
        return whole + int(rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        asked, found = self._asked(), False
        for read in self._reads(asked):
            if read.inputs is not None:
                found = True
                yield read.inputs, read.labels
        if asked and not found:
            name, reason = next(iter(self.part.bad.items()))
            raise InputError(
                f"none of the {len(self.part)} images of {self.part.name} can be read; the first, "
                f"{name}: {reason}"
            )

    def shares(self, ranks: Ranks) -> Iterator[Any]:
        """The first batch whole; of each other one the rows that this process computes."""
        asked = self._asked()
        parts = [rows_of(len(batch), ranks) for batch in asked]
        own = [batch[rows] for batch, (rows, _) in zip(asked, parts, strict=True)]
        for number, read in enumerate(self._reads([*asked[:1], *own[1:]])):
            if number:
                batch = self._with_a_row(read, asked[number])
                count = len(read.labels) if parts[number][1] else 0
                yield OwnRows(batch, count, digest_of(asked[number]))
            elif read.inputs is not None:
                yield read.inputs, read.labels

    def _with_a_row(self, read: _Read, batch: list[Asked]) -> tuple[Tensor, Tensor] | None:
        """What was read, or where that is nothing another row of the batch, if there is one."""
        if read.inputs is not None:
            return read.inputs, read.labels
        reader = _Reader(self.part.files, self.part.pixels)
        others = (reader.__getitems__([each]) for each in batch)
        return next(
            ((each.inputs, each.labels) for each in others if each.inputs is not None), None
        )

    def _asked(self) -> list[list[Asked]]:
        """The rows of every batch of the next pass, and the seeds of their augmentation."""
        rows = self.part.rows
        seeds: list[int | None] = [None] * len(rows)
        if self.shuffle:
            number = int(torch.randint(2**62, (), generator=self._generator))
            order = np.random.default_rng([self.seed, number]).permutation(len(rows))
            rows = rows[order]
            seeds = [_seed(self.seed, number, int(row)) for row in rows]
        asked = list(zip(rows.tolist(), seeds, strict=True))
        size = self.batch_size
        return [asked[at * size : (at + 1) * size] for at in range(len(self))]

    def _reads(self, asked: list[list[Asked]]) -> Iterator[_Read]:
        """Every batch as it was read, in order."""
        loader: DataLoader[Any] = DataLoader(
            _Reader(self.part.files, self.part.pixels),
            batch_sampler=asked,
            num_workers=self.part.pixels.options.workers,
            collate_fn=_unchanged,
            # The loader draws a seed for its workers, which need none: not from everyone's.
            generator=torch.Generator(),
        )
        shape: tuple[int, ...] | None = None
        for read in loader:
            self.part.note(read.bad)
            if read.inputs is not None:
                shape = shape or tuple(read.inputs.shape[1:])
                if not read.odd and tuple(read.inputs.shape[1:]) != shape:
                    read.odd = f"{list(read.inputs.shape[1:])} and {list(shape)}"
            if read.odd:
                raise InputError(
                    f"images of {self.part.name} differ in size ({read.odd}); give size="
                )
            yield read


class _Reader(Dataset[Any]):
    """Reads whole batches, in whichever process."""

    def __init__(self, files: ImageFiles, pixels: Pixels) -> None:
        self._files, self._pixels = files, pixels

    def __getitems__(self, asked: list[Asked]) -> _Read:
        images: list[Tensor] = []
        rows: list[int] = []
        bad: list[Bad] = []
        odd = ""
        for row, seed in asked:
            try:
                image = self._pixels(self._files.read(row), seed)
            except Exception as error:  # image formats have errors of their own
                reason = first_line(error)
                bad.append(Bad(self._files.name(row), reason))
                continue
            if images and image.shape != images[0].shape:
                odd = (
                    f"{self._files.name(row)} is {list(image.shape)}, "
                    f"{self._files.name(rows[0])} is {list(images[0].shape)}"
                )
            images.append(image)
            rows.append(row)
        inputs = None if odd or not images else torch.stack(images)
        return _Read(inputs, self._files.labels[rows], bad, odd)


def _unchanged(read: Any) -> Any:
    return read


def _seed(*parts: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
