"""Data that is given only once, and read several times."""

from __future__ import annotations

import dataclasses
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError

__all__ = ["Spool", "repeatable"]


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Where a tensor lies in the file."""

    offset: int
    bytes: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class Spool:
    """The batches of an iterator, kept in a temporary file as they are first read.

    Memory holds one batch, and the places of the tensors of the others. The iterator is asked for
    no more batches than are read, so it may be endless. Tensors come back on the device and with
    the values that they had; whatever else a batch holds is kept in memory as it is.

    Parameters
    ----------
    batches : iterator

    Examples
    --------
    >>> spool = Spool((torch.full((2,), float(i)), i) for i in range(3))
    >>> [target for _, target in spool], [target for _, target in spool]
    ([0, 1, 2], [0, 1, 2])
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._read: list[Any] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        # Closing it deletes it.
        weakref.finalize(self, self._file.close)

    def __iter__(self) -> Iterator[Any]:
        done = 0
        while True:
            if done < len(self._read):
                batch = self._restored(self._read[done])
            else:
                try:
                    batch = next(self._batches)
                except StopIteration:
                    return
                self._read.append(self._kept(batch))
            done += 1
            yield batch

    def _kept(self, value: Any) -> Any:
        """The same value, with places in the file for its tensors."""
        if isinstance(value, Tensor):
            return self._stored(value)
        if isinstance(value, Mapping):
            return {key: self._kept(item) for key, item in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._kept(item) for item in value)
        return value

    def _stored(self, tensor: Tensor) -> _Stored | Tensor:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.numel() == 0:
            return tensor.detach().clone()
        flat = tensor.detach().contiguous().reshape(-1).cpu().resolve_conj().resolve_neg()
        raw = flat.view(torch.uint8).numpy()
        try:
            offset = self._file.seek(0, 2)
            self._file.write(raw.data)
        except OSError as error:
            raise InputError(
                "data is an iterator, whose batches are kept in a temporary file to be read again, "
                f"and it cannot be written ({error}); pass a DataLoader or a list, or make room in "
                f"{tempfile.gettempdir()}"
            ) from error
        return _Stored(offset, raw.nbytes, tensor.shape, tensor.dtype, tensor.device)

    def _restored(self, value: Any) -> Any:
        if isinstance(value, _Stored):
            self._file.seek(value.offset)
            raw = np.frombuffer(bytearray(self._file.read(value.bytes)), dtype=np.uint8)
            tensor = torch.from_numpy(raw).view(value.dtype).reshape(value.shape)
            return tensor.to(value.device)
        if isinstance(value, Tensor):
            return value.clone()
        if isinstance(value, dict):
            return {key: self._restored(item) for key, item in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._restored(item) for item in value)
        return value


def repeatable(data: Iterable[Any] | None) -> Iterable[Any] | None:
    """Data that can be read several times: the same, or a `Spool` of an iterator.

    Examples
    --------
    >>> data = [(torch.zeros(1, 3), torch.tensor([0]))]
    >>> repeatable(data) is data
    True
    >>> isinstance(repeatable(iter(data)), Spool)
    True
    """
    return Spool(data) if isinstance(data, Iterator) else data
