"""What a model takes in a file: its tensors as they are, and in their smallest layouts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import nn

from secateur.masks import masks_of
from secateur.packing import pack

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Storage", "StoredTensor", "storage_of"]


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file of ``format="sparse"``.

    Attributes
    ----------
    layout : str
        ``"dense"``, ``"bitmask"``, ``"delta"``, ``"2:4"``, or of tiles ``"delta 16x32"``; with
        ``shared`` where its values are codes of a table.
    dense, stored : int
        Bytes as it is, and in that layout.
    """

    layout: str
    dense: int
    stored: int


@dataclasses.dataclass(frozen=True)
class Storage:
    """What the tensors of a model take in a file, without its header.

    Attributes
    ----------
    tensors : dict of str to StoredTensor
        Parameters and buffers, tied ones once.
    """

    tensors: dict[str, StoredTensor] = dataclasses.field(repr=False)

    @property
    def dense(self) -> int:
        """Bytes of all tensors as they are."""
        return sum(each.dense for each in self.tensors.values())

    @property
    def stored(self) -> int:
        """Bytes of all tensors in their smallest layouts."""
        return sum(each.stored for each in self.tensors.values())

    @property
    def layouts(self) -> dict[str, StoredTensor]:
        """The sums by layout, the one with the most stored bytes first."""
        sums: dict[str, StoredTensor] = {}
        for each in self.tensors.values():
            so_far = sums.get(each.layout, StoredTensor(each.layout, 0, 0))
            sums[each.layout] = StoredTensor(
                each.layout, so_far.dense + each.dense, so_far.stored + each.stored
            )
        return dict(sorted(sums.items(), key=lambda entry: (-entry[1].stored, entry[0])))

    def table(self) -> Table:
        """Lay the layouts out as a rich table."""
        from rich.table import Table

        table = Table(show_footer=True)
        table.add_column("layout", footer="total")
        table.add_column("tensors", footer=str(len(self.tensors)), justify="right")
        table.add_column("bytes as they are", footer=f"{self.dense:,}", justify="right")
        table.add_column("in a sparse file", footer=f"{self.stored:,}", justify="right")
        for name, each in self.layouts.items():
            count = sum(tensor.layout == name for tensor in self.tensors.values())
            table.add_row(name, str(count), f"{each.dense:,}", f"{each.stored:,}")
        return table


def storage_of(model: nn.Module, *, huffman: bool = False) -> Storage:
    """What ``secateur.save(model, path, format="sparse")`` stores of every tensor.

    Parameters
    ----------
    model : torch.nn.Module
    huffman : bool, default False
        As in `secateur.save`.

    Examples
    --------
    >>> layer = nn.Linear(512, 64, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> storage_of(layer).tensors["weight"]
    StoredTensor(layout='delta', dense=131072, stored=0)
    """
    masks = {name: mask.cpu() for name, mask in masks_of(model).items()}
    found = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        size = tensor.numel() * tensor.element_size()
        packed = None
        if not tensor.is_meta and not tensor.is_complex():
            whole = tensor.detach().cpu().contiguous()
            mask = masks.get(name)
            told = mask is not None and not bool(whole[~mask].any())
            packed = pack(whole, mask if told else None, deflated=huffman)
        layout, stored = ("dense", size) if packed is None else (packed.layout, packed.nbytes)
        found[name] = StoredTensor(layout, size, stored)
    return Storage(found)
