"""Parts out of what people have: tensors, and torch's loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from secateur.data.splits import Part, Split
from secateur.errors import InputError

__all__ = ["LoaderPart", "as_part"]


class LoaderPart:
    """A `torch.utils.data.DataLoader`, or another iterable of batches, as it is.

    Batch size, order and augmentation stay the loader's own. `DataLoader` draws its order from
    PyTorch's generator, which `secateur.recover` seeds, unless it has one of its own.

    Parameters
    ----------
    loader : iterable
        Of pairs ``(inputs, labels)``, any number of times.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> loader = DataLoader(TensorDataset(torch.zeros(5, 2), torch.zeros(5).long()), batch_size=2)
    >>> part = LoaderPart(loader)
    >>> len(part), part.labels.shape
    (5, torch.Size([5]))
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if isinstance(loader, Iterator):
            raise InputError("an iterator can be gone through only once; pass a DataLoader or list")
        self.loader = loader
        if isinstance(loader, Sized) and not len(loader):
            raise InputError("a loader must hold at least one batch")

    def __len__(self) -> int:
        dataset = getattr(self.loader, "dataset", None)
        return len(dataset) if isinstance(dataset, Sized) else len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """All of them; goes through the loader."""
        return torch.cat([inputs for inputs, _ in self.loader])

    @property
    def labels(self) -> Tensor:
        """All of them; goes through the loader."""
        return torch.cat([labels for _, labels in self.loader])

    def label_range(self) -> tuple[int, int] | None:
        """Not known without going through the loader."""
        return None

    def batches(
        self,
        batch_size: int = 64,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> Iterable[Any]:
        """The loader itself, whose own all of these are."""
        return self.loader


def as_part(what: str, value: Any) -> Part:
    """Read one part of a data set.

    Parameters
    ----------
    what : str
        For messages.
    value : Part, pair of tensors, or DataLoader

    Raises
    ------
    InputError
        For anything else.

    Examples
    --------
    >>> len(as_part("train", (torch.zeros(3, 2), torch.zeros(3))))
    3
    """
    if isinstance(value, DataLoader):
        return LoaderPart(value)
    if isinstance(value, (tuple, list)) and len(value) == 2:
        inputs, labels = value
        if isinstance(inputs, Tensor) and isinstance(labels, Tensor):
            return Split(inputs, labels)
    if callable(getattr(value, "batches", None)):
        return value
    raise InputError(
        f"{what} must be a pair of inputs and labels or a torch DataLoader, "
        f"not {type(value).__name__}"
    )
