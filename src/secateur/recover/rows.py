"""Batches of several processes: the same ones in each of them, and whose their rows are."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from secateur.inputs import Inputs, named_tensors, replace_tensors
from secateur.observing.batches import read_batch
from secateur.ranks import Ranks
from secateur.recover.sharing import OwnRows, rows_of, shares_of

__all__ = ["Part", "alike", "cut", "examples_in_batch", "own_rows", "size_of"]

ADVICE = (
    "give every process the same data, not a share of it (no DistributedSampler, no "
    "accelerator.prepare): recover shares every batch out"
)


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a batch that the processes read in shares.

    Attributes
    ----------
    rows : Any
        A batch; never without a row.
    own : int
        How many of the rows count for this process.
    total : int
        How many there are in all processes.
    """

    rows: Any
    own: int
    total: int


def alike(batches: Iterable[Any], ranks: Ranks, seed: int = 0) -> Iterator[Any]:
    """Batches, which have to be the same ones in every process, or this one's rows of them.

    What batches they are is compared at every step, before anything is computed, and the contents
    of the first, which is read whole.

    Parameters
    ----------
    batches : iterable
    ranks : Ranks
    seed : int
        Of what a data set draws for the rows of this process.

    Raises
    ------
    InputError
        In every process, where one has others.
    """
    if ranks.size == 1:
        yield from batches
        return
    stream, number = iter(shares_of(batches, ranks, seed) or batches), 0
    while True:
        with ranks.joined("reading a batch"):
            batch = next(stream, None)
            described = "none" if batch is None else _described(batch, contents=not number)
        number += 1
        count = batch.count if isinstance(batch, OwnRows) else 0
        counts = ranks.same(f"batch {number}", described, ADVICE, note=count)
        if batch is None:
            return
        if not isinstance(batch, OwnRows):
            yield batch
        elif sum(counts):
            yield Part(batch.batch, batch.count, sum(counts))


def own_rows(
    batches: Iterable[Any], device: torch.device, ranks: Ranks
) -> Iterator[tuple[Inputs, Any]]:
    """Inputs and targets of this process's rows; batches with none for it are left out."""
    for batch in shares_of(batches, ranks, 0) or batches:
        if isinstance(batch, OwnRows):
            if batch.count:
                yield read_batch(batch.batch, device)
            continue
        inputs, targets = read_batch(batch, device)
        if ranks.size > 1:
            own, share = rows_of(size_of(inputs), ranks)
            if not share:
                continue
            inputs, targets = cut(inputs, targets, own)
        yield inputs, targets


def examples_in_batch(batch: Any) -> int:
    """Examples in a batch, in all processes together."""
    return batch.total if isinstance(batch, Part) else size_of(read_batch(batch)[0])


def size_of(inputs: Inputs) -> int:
    """Examples in a batch: the first dimension of its first input."""
    for _, tensor in named_tensors((inputs.args, inputs.kwargs)):
        if tensor.ndim:
            return len(tensor)
    return 1


def cut(inputs: Inputs, targets: Any, rows: slice) -> tuple[Inputs, Any]:
    """Rows of every tensor that has one for each example."""
    total = size_of(inputs)

    def part(name: str, tensor: Tensor) -> Tensor:
        return tensor[rows] if tensor.ndim and len(tensor) == total else tensor

    return inputs.replaced(part), replace_tensors(targets, part, "targets")


def _described(batch: Any, *, contents: bool) -> str:
    if isinstance(batch, OwnRows):
        shape = "" if batch.batch is None else f" of {list(batch.batch[0].shape[1:])}"
        return f"examples {batch.of}{shape}"
    inputs, targets = read_batch(batch)
    text = f"{size_of(inputs)} examples"
    if not contents:
        return text
    digest = hashlib.sha256()
    for _, tensor in named_tensors(((inputs.args, inputs.kwargs), targets)):
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return f"{text} ({digest.hexdigest()[:8]})"
