"""What one tensor dimension carries: an identity for every index, and how identities are tied.

Every index of every prunable dimension has an *identity*, an integer. Operations carry
identities from tensor to tensor; where two tensors must lose the same indices, their
identities are *tied*. After a whole forward pass the tied identities form *classes*: sets of
positions, in many tensors, that can only be removed together.
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ids", "Lane", "Layout", "Ledger"]

Ids: TypeAlias = NDArray[np.int64]


class Lane:
    """The identities along one dimension of one tensor.

    Attributes
    ----------
    size : int
        Length of the dimension in the dense model.
    ids : ndarray or None
        Shape ``[*sizes of rows, size]``. None while unbound: the dimension of a parameter or
        of a freshly made tensor that nothing has used yet; it takes the identities of
        whatever it meets first.
    rows : tuple of int
        Other dimensions of the same tensor along which the identities differ. A view of
        ``heads * width`` channels as ``(heads, width)`` has a lane on ``width`` whose rows are
        ``heads``: every head may lose other indices, as long as all lose equally many.
    """

    __slots__ = ("ids", "rows", "size")

    def __init__(self, size: int, ids: Ids | None = None, rows: tuple[int, ...] = ()) -> None:
        self.size = size
        self.ids = ids
        self.rows = rows

    def __repr__(self) -> str:
        return f"Lane({self.size}, rows={self.rows}, bound={self.ids is not None})"


Layout: TypeAlias = "list[Lane | None]"
"""One entry per dimension of a tensor; None where no index can ever be removed."""


@dataclasses.dataclass
class Balance:
    """Rows of identities of which each must lose equally many.

    Attributes
    ----------
    rows : list of ndarray
    reason : str
    """

    rows: list[Ids]
    reason: str


class Ledger:
    """Where identities are issued, tied, balanced and protected."""

    def __init__(self) -> None:
        self.count = 0
        self.ties: list[tuple[Ids, Ids]] = []
        self.balances: list[Balance] = []
        self.protected: list[tuple[Ids, str]] = []
        self.origins: list[tuple[int, int, str, int]] = []

    def fresh(self, size: int, name: str = "", dim: int = 0) -> Ids:
        """Issue new identities; those of a named tensor's dimension remember where they began."""
        ids = np.arange(self.count, self.count + size, dtype=np.int64)
        if name:
            self.origins.append((self.count, size, name, dim))
        self.count += size
        return ids

    def ids(self, lane: Lane) -> Ids:
        """The identities of a lane, issued now if it was unbound."""
        if lane.ids is None:
            lane.ids = self.fresh(lane.size)
        return lane.ids

    def equate(self, a: Ids, b: Ids) -> None:
        """Tie two equally shaped (or broadcastable) arrays, element by element."""
        if a is b:
            return
        if a.shape != b.shape:
            a, b = np.broadcast_arrays(a, b)
        self.ties.append((a.ravel(), b.ravel()))

    def protect(self, lane: Lane | None, reason: str) -> None:
        """Say that no index of the lane can be removed, and why."""
        if lane is not None and lane.size > 1:
            self.protected.append((self.ids(lane).ravel(), reason))

    def protect_ids(self, ids: Ids, reason: str) -> None:
        if ids.size:
            self.protected.append((ids.ravel(), reason))

    def balance(self, rows: Ids | list[Ids], reason: str) -> None:
        """Say that every row must lose equally many of its identities."""
        listed = list(rows)
        if len(listed) > 1:
            self.balances.append(Balance(listed, reason))

    def aligned(self, lane: Lane) -> Lane:
        """The same lane with one identity per index: rows are tied to each other."""
        if not lane.rows:
            return lane
        ids = self.ids(lane).reshape(-1, lane.size)
        self.equate(ids[:1], ids[1:])
        return Lane(lane.size, np.ascontiguousarray(ids[0]))

    def unite(self, lanes: list[Lane | None], sizes: dict[int, int], reason: str) -> Lane | None:
        """Tie lanes that meet in one dimension of a result, and return the result's lane.

        Parameters
        ----------
        lanes : list of Lane or None
            All of one size. A None means a dimension of that size that cannot change.
        sizes : dict
            Size of every dimension of the result, to spread rows over.
        """
        present: list[Lane] = []
        for lane in lanes:
            if lane is not None and all(lane is not other for other in present):
                present.append(lane)
        if not present:
            return None
        if len(present) < len(lanes) and any(lane is None for lane in lanes):
            for lane in present:
                self.protect(lane, reason)
            return None
        bound = [lane for lane in present if lane.ids is not None]
        if not bound:
            self.ids(present[0])
            bound = [present[0]]
        least = min(bound, key=lambda lane: len(lane.rows))
        for lane in present:
            if lane.ids is None:
                if least.rows:
                    least = self.aligned(least)
                lane.ids = least.ids
        for lane in bound:
            if lane is not least:
                self._equate_rows(lane, least, sizes)
        return least

    def _equate_rows(self, a: Lane, b: Lane, sizes: dict[int, int]) -> None:
        rows = tuple(sorted({*a.rows, *b.rows}))
        self.equate(spread(a, rows, sizes), spread(b, rows, sizes))


def spread(lane: Lane, rows: tuple[int, ...], sizes: dict[int, int]) -> Ids:
    """The identities of a lane over more rows than its own: ``[*sizes of rows, size]``."""
    assert lane.ids is not None
    if rows == lane.rows:
        return lane.ids
    ids = lane.ids
    shape = [sizes[row] if row in lane.rows else 1 for row in rows]
    order = [lane.rows.index(row) for row in rows if row in lane.rows]
    ids = ids.transpose([*order, len(lane.rows)]).reshape([*shape, lane.size])
    return np.broadcast_to(ids, [*(sizes[row] for row in rows), lane.size])


def settle(count: int, ties: list[tuple[Ids, Ids]]) -> tuple[Ids, int]:
    """Classes of tied identities: a label in ``0..n-1`` for every identity, and n.

    Labels are ordered by each class's smallest identity, so they are the same on every run.

    Examples
    --------
    >>> settle(4, [(np.array([0]), np.array([2]))])
    (array([0, 1, 0, 2]), 3)
    """
    label = np.arange(count, dtype=np.int64)
    if ties:
        a = np.concatenate([left for left, _ in ties])
        b = np.concatenate([right for _, right in ties])
        different = a != b
        a, b = a[different], b[different]
        while a.size:
            low, high = np.minimum(a, b), np.maximum(a, b)
            np.minimum.at(label, high, low)
            while True:
                shorter = label[label]
                if np.array_equal(shorter, label):
                    break
                label = shorter
            a, b = label[a], label[b]
            different = a != b
            a, b = a[different], b[different]
    roots, label = np.unique(label, return_inverse=True)
    return label.astype(np.int64), len(roots)
