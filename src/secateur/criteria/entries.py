"""The members that count: which rows of which tensors a criterion is asked about."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from secateur.criteria.base import Criterion, Kind
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.criteria.rows import blocks_of
from secateur.criteria.weights import kind_of, owner_of

if TYPE_CHECKING:
    from secateur.graph import Graph, Member

__all__ = ["Entry", "Key", "Piece", "collect", "pieces_of"]

Key = tuple[str, int, bytes]


@dataclasses.dataclass
class Entry:
    """A member that counts.

    Attributes
    ----------
    units : ndarray of int, shape [size of the dimension]
        Unit of every position, -1 for none.
    """

    member: Member
    tensor: Tensor
    owner: nn.Module
    leaf: str
    kind: Kind
    units: np.ndarray

    def __str__(self) -> str:
        return f"{self.member.name!r} (dimension {self.member.dim})"


@dataclasses.dataclass
class Piece:
    """Rows of an entry that are scored in one go.

    Attributes
    ----------
    units : ndarray of int, shape [n]
        Unit of every row, -1 for none.
    where : ndarray of int, shape [n, positions each], or None
        Positions of every row; None for one row per position, in order.
    """

    entry: Entry
    units: np.ndarray
    where: np.ndarray | None = None

    @functools.cached_property
    def key(self) -> Key:
        """What its scores depend on, whatever the units are called."""
        where = b"" if self.where is None else self.where.tobytes()
        return (self.entry.member.name, self.entry.member.dim, where)


def collect(
    graph: Graph, model: nn.Module, criterion: Criterion, unit_of_class: np.ndarray
) -> list[Entry]:
    """Find the members that a criterion looks at, each tensor's dimension once.

    Parameters
    ----------
    unit_of_class : ndarray of int, shape [classes]
        Unit of every class, -1 for none. A member without units is left out, but for criteria
        that read data: a pass over the data is made once, for all.
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    if not criterion.streams:
        tensors |= dict(model.named_buffers(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    kinds: dict[nn.Module, Kind] = {}
    entries: list[Entry] = []
    seen: set[tuple[int, int]] = set()
    for member in graph.members:
        tensor = tensors.get(member.name)
        # A tied weight may be listed under each of its names; it is one tensor and counts once.
        key = (id(tensor), member.dim)
        if tensor is None or key in seen or not tensor.is_floating_point():
            continue
        owner, leaf = owner_of(modules, member.name)
        kind = kinds.get(owner) or kinds.setdefault(owner, kind_of(owner))
        if not criterion.looks_at(member, tensor.shape, kind):
            continue
        classes = np.asarray(member.classes)
        units = np.where(classes >= 0, unit_of_class[classes], -1)
        if criterion.streams or (units >= 0).any():
            seen.add(key)
            entries.append(Entry(member, tensor, owner, leaf, kind, units))
    return entries


def pieces_of(criterion: Criterion, entries: list[Entry], group_of_unit: np.ndarray) -> list[Piece]:
    """Cut entries into pieces: whole for criteria that add elements up, else by group."""
    if isinstance(criterion, ElementwiseCriterion) or not criterion.reads_weights:
        return [Piece(entry, entry.units) for entry in entries]
    return [
        Piece(entry, names, where)
        for entry in entries
        for where, names in blocks_of(entry.units, group_of_unit)
    ]
