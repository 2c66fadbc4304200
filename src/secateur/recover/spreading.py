"""One training batch over several processes: who computes which rows, with one gradient."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

from secateur.errors import InputError
from secateur.inputs import Inputs
from secateur.observing.batches import read_batch
from secateur.observing.standins import all_seeded
from secateur.ranks import ALONE, Ranks
from secateur.recover.rows import Part, cut, size_of
from secateur.recover.settings import Settings
from secateur.recover.sharing import rows_of
from secateur.recover.synced import SyncedBatchNorm

if TYPE_CHECKING:
    from secateur.recover.sharded import Sharded

__all__ = ["Spread", "check_sharded", "placed"]


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
        self._shards: Sharded | None = None
        if ranks.sharded:
            # Slow to import, and not in every build of PyTorch.
            from secateur.recover.sharded import Sharded

            self._shards = Sharded(model, ranks)
            self.network = self._shards.network
        elif ranks.size > 1:
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
        return *cut(inputs, targets, own), share

    def begin(self) -> None:
        """Take the model as it is now, before the first step and after a checkpoint was read."""
        if self._shards is not None:
            self._shards.push()

    def collect(self) -> None:
        """Give the model what was trained, in every process."""
        if self._shards is not None:
            self._shards.pull()

    def mask_gradients(self) -> None:
        """Hold zeros before a step; masks of whole weights do so by themselves."""
        if self._shards is not None:
            self._shards.mask_gradients()

    def mask_weights(self) -> None:
        """Hold zeros after a step."""
        if self._shards is not None:
            self._shards.mask_weights()

    def state_of(self, engine: torch.optim.Optimizer) -> dict[str, Any]:
        """What a checkpoint holds of an optimizer; called in every process."""
        return engine.state_dict() if self._shards is None else self._shards.whole_state(engine)

    def load_state(self, engine: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take it back."""
        if self._shards is None:
            engine.load_state_dict(state)
        else:
            self._shards.load_state(engine, state)

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
            if self._shards is not None:
                self._shards.network.set_requires_gradient_sync(last)
            elif not last:
                stack.enter_context(self.network.no_sync())  # type: ignore[operator]
            # What the data draw from stays the same in every process.
            seed = int.from_bytes(hashlib.sha256(draws).digest()[:4], "big")
            stack.enter_context(all_seeded(seed))
            stack.enter_context(SyncedBatchNorm(float(share > 0)))
            yield
        if last:
            self._passes = 0


def check_sharded(model: nn.Module, settings: Settings, features: bool) -> None:
    """Refuse what needs the whole model between two steps.

    Raises
    ------
    InputError
    """
    reason = ""
    if settings.ema is not None:
        reason = "ema= averages whole weights after every step"
    elif features:
        reason = "feature distillation watches modules of the whole model"
    elif isinstance(settings.optimizer, torch.optim.Optimizer):
        reason = "an optimizer of your own holds the whole weights; name one, such as 'adamw'"
    elif any(map(parametrize.is_parametrized, model.modules())):
        reason = "computed weights, such as those of weight norm, are not held in shards"
    if reason:
        raise InputError(f"{reason}: under FSDP train without it, or launch with --multi_gpu")


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
