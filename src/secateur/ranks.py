"""Several processes that do one thing together, as Hugging Face Accelerate starts them."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from secateur.errors import InputError, RankError, first_line, require

__all__ = ["ALONE", "Ranks", "found_ranks"]

T = TypeVar("T")

# Most messages are shorter, and then one collective call carries them.
SHORT = 256
FAILED = "failed"
# By which a launch asks for FSDP. On the CPU accelerate refuses it; PyTorch has it there, too.
FSDP = "ACCELERATE_USE_FSDP"
# What the first process does alone, such as a search, must not end the others' wait.
PATIENCE = timedelta(days=7)


class Ranks:
    """The processes of one launch, counted from 0; every method is called by all of them.

    Parameters
    ----------
    accelerator : accelerate.Accelerator, optional
        None for one process, in which every method is trivial.
    sharded : bool
        Whether weights that are trained are spread over the processes (FSDP).

    Examples
    --------
    >>> alone = Ranks()
    >>> alone.leads, alone.sums([1.0, 2.0])
    (True, [1.0, 2.0])
    """

    def __init__(self, accelerator: Any = None, sharded: bool = False) -> None:
        self.accelerator, self.sharded = accelerator, sharded
        self.rank = 0 if accelerator is None else int(accelerator.process_index)
        self.size = 1 if accelerator is None else int(accelerator.num_processes)
        self._told: BaseException | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def exchange(self, what: str, text: str) -> list[str]:
        """Give every process the texts of all of them.

        Raises
        ------
        RankError
            When another process failed on its way here, or came here for something else.
        """
        if self.size == 1:
            return [text]
        messages = self._gathered(json.dumps([what, text]))
        for rank, (tag, content) in enumerate(messages):
            if tag == FAILED and what != FAILED:
                raise RankError(f"process {rank} of this run failed: {content}")
        for rank, (tag, _) in enumerate(messages):
            if tag != what:
                raise RankError(
                    f"process {rank} is at {tag!r} and process {self.rank} at {what!r}; call the "
                    "same functions in the same order in every process"
                )
        return [content for _, content in messages]

    def same(self, what: str, value: Any, advice: str, note: Any = None) -> list[Any]:
        """Make sure that every process has the same.

        Parameters
        ----------
        what : str
            What is compared, for the message.
        value : Any
            In JSON values.
        advice : str
            What to do where they differ.
        note : Any
            In JSON values; sent along and not compared.

        Returns
        -------
        list
            The notes of all processes.

        Raises
        ------
        InputError
            In every process, where one of them differs.
        """
        texts = self.exchange(what, json.dumps([value, note]))
        values, notes = zip(*map(json.loads, texts), strict=True)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise InputError(
                    f"the processes differ in {what}: {values[0]} in process 0, "
                    f"{other} in process {rank}; {advice}"
                )
        return list(notes)

    def sums(self, values: Iterable[float]) -> list[float]:
        """Add numbers up over the processes, in their order: every one gets the same bits."""
        mine = list(values)
        if self.size == 1:
            return mine
        theirs = [json.loads(text) for text in self.exchange("sums", json.dumps(mine))]
        return [
            math.fsum(each) if _finite(each) else math.nan for each in zip(*theirs, strict=True)
        ]

    @contextlib.contextmanager
    def joined(self, what: str) -> Iterator[None]:
        """Wait for each other at the end of the block; where one fails inside, all of them raise.

        Raises
        ------
        RankError
            In the processes that did not fail.
        """
        try:
            yield
        except RankError:
            raise
        except Exception as error:  # whatever it is, the others are to hear of it
            if self.size > 1 and self._told is not error:
                self._told = error
                with contextlib.suppress(RankError):
                    self.exchange(FAILED, first_line(error))
            raise
        self.exchange(what, "")

    def leading(self, what: str, action: Callable[[], T]) -> T | None:
        """Let the first process do something while the others wait; None for those.

        Raises
        ------
        RankError
            In the others, where it failed.
        """
        with self.joined(what):
            return action() if self.leads else None

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Write the first process's values into every process's tensors."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    def _gathered(self, message: str) -> list[list[str]]:
        content = message.encode()
        short = self._all([*len(content).to_bytes(8, "big"), *content[:SHORT]], 8 + SHORT)
        sizes = [int.from_bytes(each[:8], "big") for each in short]
        if max(sizes) <= SHORT:
            return [json.loads(each[8 : 8 + size]) for each, size in zip(short, sizes, strict=True)]
        whole = self._all([*content], max(sizes))
        return [json.loads(each[:size]) for each, size in zip(whole, sizes, strict=True)]

    def _all(self, content: list[int], size: int) -> list[bytes]:
        device = self.accelerator.device
        mine = torch.zeros(size, dtype=torch.uint8)
        mine[: len(content)] = torch.tensor(content, dtype=torch.uint8)
        theirs = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(self.size)]
        torch.distributed.all_gather(theirs, mine.to(device))
        return [bytes(each.cpu().tolist()) for each in theirs]


ALONE = Ranks()
"""One process."""

_REPLICAS = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_MLU", "MULTI_XPU")


def found_ranks(accelerator: Any = None) -> Ranks:
    """The processes that an `Accelerator` knows of, or that this one was launched among.

    Parameters
    ----------
    accelerator : accelerate.Accelerator, False or None
        None looks for a launch by ``accelerate launch`` or ``torchrun``; False is one process
        whatever was launched.

    Raises
    ------
    InputError
        For models in pieces by DeepSpeed or Megatron and for loss scaling, which masks and
        checkpoints do not follow, and for an accelerator that does not know of the other processes.
    MissingExtraError
        When this was launched as one of several and accelerate is not installed.

    Examples
    --------
    >>> found_ranks().size
    1
    """
    if accelerator is False or (accelerator is None and not _launched()):
        return ALONE
    accelerate = require("accelerate", "accelerate")
    if accelerator is None:
        waiting = accelerate.utils.InitProcessGroupKwargs(timeout=PATIENCE)
        # Without a GPU it would see one process, whatever was launched.
        cpu = None if torch.accelerator.is_available() else True
        if not torch.distributed.is_initialized():
            atexit.register(_leave)
        with _hidden(FSDP) if cpu else contextlib.nullcontext():
            accelerator = accelerate.Accelerator(cpu=cpu, kwargs_handlers=[waiting])
    elif not isinstance(accelerator, accelerate.Accelerator):
        raise InputError(
            f"accelerator must be an accelerate.Accelerator, not {type(accelerator).__name__}"
        )
    kind = accelerator.distributed_type.value
    asked = kind == "MULTI_CPU" and os.environ.get(FSDP, "").lower() == "true"
    sharded = kind == "FSDP" or asked
    if kind not in _REPLICAS and not sharded:
        raise InputError(
            f"every process needs the whole model for its masks and plans, and {kind} spreads it "
            "over them; launch with --multi_gpu or --use_fsdp"
        )
    if accelerator.num_processes == 1 and _launched():
        raise InputError(
            "this is one of several processes, and the accelerator knows of one; without GPUs, "
            "make it with Accelerator(cpu=True)"
        )
    if accelerator.scaler is not None:
        raise InputError("fp16 needs a scaled loss; launch with --mixed_precision bf16 or no")
    return ALONE if accelerator.num_processes == 1 else Ranks(accelerator, sharded)


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Without a variable of the environment."""
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def _leave() -> None:
    """End what was begun here: threads of a group that is left open can abort the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _launched() -> bool:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size() > 1
    # Workers that one of the processes starts inherit its environment, and are none of them.
    if multiprocessing.parent_process() is not None or "MASTER_ADDR" not in os.environ:
        return False
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))
