"""One training batch over several processes: who computes which rows, with one gradient."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from secateur.inputs import Inputs, named_tensors, replace_tensors
from secateur.observing.batches import read_batch
from secateur.observing.standins import all_seeded
from secateur.ranks import ALONE, Ranks
from secateur.recover.sharing import OwnRows, rows_of, shares_of
from secateur.recover.synced import SyncedBatchNorm

__all__ = ["Part", "Spread", "alike", "examples_in_batch", "own_rows", "placed", "size_of"]

ADVICE = (
    "give every process the same data, not a share of it (no DistributedSampler, no "
    "accelerator.prepare): recover shares every batch out"
)


class Spread:
    """A model whose replicas in all processes train as one.

    Every process computes its rows of each batch. Gradients are added
    up by DistributedDataParallel, batch norms take their statistics over all rows, so that a step
    is that of one process but for rounding and dropout, whose draws differ from process to
    process.

    Parameters
    ----------
    model : torch.nn.Module
        Already on its device.
    ranks : Ranks
    seed : int
        Of the draws inside the model.

    Attributes
    ----------
    network : torch.nn.Module
        What is to be called on this process's rows.
    """

    def __init__(self, model: nn.Module, ranks: Ranks = ALONE, seed: int = 0) -> None:
        self.ranks, self.seed = ranks, seed
        self.network = model
        self._passes = 0
        if ranks.size > 1:
            handler = ranks.accelerator.ddp_handler
            options = {} if handler is None else handler.to_kwargs()
            # Buffers are equal everywhere: their statistics are over all rows.
            options = {"broadcast_buffers": False, **options}
            device = ranks.accelerator.device
            if device.type != "cpu":
                options["device_ids"] = [device]
            self.network = DistributedDataParallel(model, **options)

    def read(self, batch: Any, device: torch.device) -> tuple[Inputs, Any, float]:
        """The rows of a batch for this process, and which share of the batch they are.

        A process for which there is no row gets another's, with a share of 0.
        """
        if isinstance(batch, Part):
            return *read_batch(batch.rows, device), batch.own / batch.total
        inputs, targets = read_batch(batch, device)
        if self.ranks.size == 1:
            return inputs, targets, 1.0
        own, share = rows_of(size_of(inputs), self.ranks)
        return *_cut(inputs, targets, own), share

    @contextmanager
    def computing(self, share: float, *, last: bool, at: int) -> Iterator[None]:
        """Around forward and backward pass of a batch.

        Parameters
        ----------
        share : float
            As `rows` gave it.
        last : bool
            Whether gradients are added up now; before the last batch of a step they only gather.
        at : int
            Number of the step, from which the draws of this process follow.
        """
        if self.ranks.size == 1:
            yield
            return
        self._passes += 1
        draws = json.dumps([self.seed, at, self._passes, self.ranks.rank]).encode()
        with ExitStack() as stack:
            if not last:
                stack.enter_context(self.network.no_sync())  # type: ignore[operator]
            # What the data draw from stays the same in every process.
            seed = int.from_bytes(hashlib.sha256(draws).digest()[:4], "big")
            stack.enter_context(all_seeded(seed))
            stack.enter_context(SyncedBatchNorm(float(share > 0)))
            yield
        if last:
            self._passes = 0


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
            inputs, targets = _cut(inputs, targets, own)
        yield inputs, targets


def _cut(inputs: Inputs, targets: Any, rows: slice) -> tuple[Inputs, Any]:
    """Rows of every tensor that has one for each example."""
    total = size_of(inputs)

    def part(name: str, tensor: Tensor) -> Tensor:
        return tensor[rows] if tensor.ndim and len(tensor) == total else tensor

    return inputs.replaced(part), replace_tensors(targets, part, "targets")


def size_of(inputs: Inputs) -> int:
    """Examples in a batch: the first dimension of its first input."""
    for _, tensor in named_tensors((inputs.args, inputs.kwargs)):
        if tensor.ndim:
            return len(tensor)
    return 1


def examples_in_batch(batch: Any) -> int:
    """Examples in a batch, in all processes together."""
    return batch.total if isinstance(batch, Part) else size_of(read_batch(batch)[0])


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


@contextmanager
def placed(ranks: Ranks, *models: nn.Module | None) -> Iterator[None]:
    """Hold models on this process's device; afterwards they are where they were."""
    with contextlib.ExitStack() as stack:
        for model in models:
            if not isinstance(model, nn.Module) or ranks.size == 1:
                # Who takes the model says what is wrong with anything else.
                continue
            first = next(model.parameters(), None)
            if first is not None:
                stack.callback(model.to, first.device)
                model.to(ranks.accelerator.device)
        yield
