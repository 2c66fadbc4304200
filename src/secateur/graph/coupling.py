"""From tied identities to coupled groups: what can be removed, and only together with what."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from secateur.graph.lanes import Ids, Ledger, settle

__all__ = ["Cell", "Group", "Member", "couple"]


@dataclasses.dataclass(eq=False)
class Member:
    """One dimension of one parameter or buffer, and the class of each of its indices.

    Attributes
    ----------
    name : str
        Dotted name of the parameter or buffer.
    dim : int
    role : str
        ``"producer"`` (the output dimension of a weight: it makes the features),
        ``"consumer"`` (an input dimension of a weight: it reads them) or ``"other"``
        (biases, norm scales, running statistics, ...).
    classes : ndarray
        Shape ``[size of the dimension]``.
    """

    name: str
    dim: int
    role: str
    classes: Ids


@dataclasses.dataclass(eq=False)
class Cell:
    """Classes that are interchangeable: each touches the same tensors, or counts in the same rows.

    ``take`` of them leave with every unit of the group.
    """

    classes: Ids
    take: int = 1


@dataclasses.dataclass(eq=False)
class Group:
    """Interchangeable units that compete with each other: the channels of one coupled layer.

    Attributes
    ----------
    name : str
        The first parameter whose output dimension it is.
    cells : list of Cell
        A unit takes the given number of classes from every cell. Usually there is one cell of
        which a unit takes one class; narrower heads take one class from each head.
    members : list of Member
        Every dimension of every tensor that shrinks with it.
    """

    name: str
    cells: list[Cell]
    members: list[Member]
    protected: bool = False

    @property
    def size(self) -> int:
        """How many units there are."""
        return min(len(cell.classes) // cell.take for cell in self.cells)

    @property
    def classes(self) -> Ids:
        return np.concatenate([cell.classes for cell in self.cells])

    def units(self, scores: np.ndarray | None = None) -> Ids:
        """Classes of every unit, ``[size, classes per unit]``, lowest scores first.

        With several cells, a unit joins the lowest of each: the weakest place of every head.
        Equal scores keep the order of their indices.
        """
        columns = []
        # Read once: it looks at every cell, and window attention has thousands of them.
        size = self.size
        for cell in self.cells:
            classes = cell.classes
            if scores is not None:
                classes = classes[np.argsort(scores[classes], kind="stable")]
            elif len(self.cells) > 1 or cell.take > 1:
                classes = np.sort(classes)
            columns.append(classes[: size * cell.take].reshape(size, cell.take))
        return np.concatenate(columns, axis=1)


@dataclasses.dataclass
class Coupling:
    """Everything that follows from the ties of one forward pass."""

    labels: Ids
    n_classes: int
    reasons: dict[int, str]
    members: list[Member]
    groups: list[Group]


def couple(ledger: Ledger, members: list[tuple[str, int, str, Ids]]) -> Coupling:
    """Settle the ledger: classes, what protects them, and the groups of the others.

    Parameters
    ----------
    members : list of (name, dim, role, identities)
        Every dimension of every parameter and buffer that was used.
    """
    labels, count = settle(ledger.count, ledger.ties)
    reason_of = np.full(count, -1, dtype=np.int64)
    for position in range(len(ledger.protected) - 1, -1, -1):
        reason_of[labels[ledger.protected[position][0]]] = position
    free = reason_of < 0
    built = [Member(name, dim, role, labels[ids]) for name, dim, role, ids in members]
    signature = _signatures(built, count)
    touched = np.zeros(count, dtype=bool)
    for member in built:
        touched[member.classes] = True
    live = free & touched
    groups, stuck = _group(ledger, labels, signature, live)
    named: list[Group] = []
    unbalanced: list[Group] = []
    by_class: dict[int, str] = {}
    for cells in groups:
        named.append(Group("", cells, []))
    for cells, reason in stuck:
        unbalanced.append(Group("", cells, []))
        for cell in cells:
            for label in cell.classes.tolist():
                by_class[label] = reason
    fixed = np.flatnonzero((reason_of >= 0) & touched)
    positions = zip(fixed.tolist(), reason_of[fixed].tolist(), strict=True)
    reasons = {label: ledger.protected[position][1] for label, position in positions}
    reasons.update(by_class)
    _assign_members([*named, *unbalanced], built, count)
    named.sort(key=lambda group: int(group.classes.min()))
    return Coupling(labels, count, reasons, built, named)


def _signatures(members: list[Member], count: int) -> np.ndarray:
    """A hash, per class, of the multiset of member dimensions that it touches."""
    random = np.random.default_rng(0)
    signature = np.zeros(count, dtype=np.uint64)
    for member in members:
        token = random.integers(1, 2**63, dtype=np.uint64)
        np.add.at(signature, member.classes, token)
    return signature


def _mix(key: np.ndarray, token: np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (key * np.uint64(6364136223846793005) + token) ^ (key >> np.uint64(29))


def _group(
    ledger: Ledger, labels: Ids, signature: np.ndarray, live: np.ndarray
) -> tuple[list[list[Cell]], list[tuple[list[Cell], str]]]:
    """Cut live classes into cells, and join the cells that must shrink alike."""
    key = signature.copy()
    bound = np.zeros(len(live), dtype=bool)
    constraints: list[tuple[np.ndarray, np.ndarray, str]] = []
    seen: set[tuple[int, ...]] = set()
    random = np.random.default_rng(1)
    for balance in ledger.balances:
        matrix = _counts(balance.rows, labels, len(live))
        classes, counts = matrix
        uneven = (counts != counts[:, :1]).any(axis=1) & live[classes]
        if not uneven.any():
            continue
        fingerprint = (hash(classes.tobytes()), hash(counts.tobytes()))
        if fingerprint in seen:
            continue
        seen.add(fingerprint)
        tokens = random.integers(1, 2**63, size=counts.shape[1], dtype=np.uint64)
        with np.errstate(over="ignore"):
            pattern = (counts.astype(np.uint64) * tokens).sum(axis=1, dtype=np.uint64)
        chosen = classes[uneven]
        # Whatever tensors they touch: two channels of one group of a norm are interchangeable.
        key[chosen[~bound[chosen]]] = 0
        bound[chosen] = True
        key[chosen] = _mix(key[chosen], np.uint64(len(constraints) + 1)) + pattern[uneven]
        constraints.append((classes[uneven], counts[uneven], balance.reason))
    candidates = np.flatnonzero(live)
    cells, cell_of = _cells(key, candidates, len(live))
    home = list(range(len(cells)))

    def root(at: int) -> int:
        while home[at] != at:
            home[at] = home[home[at]]
            at = home[at]
        return at

    for classes, _, _ in constraints:
        involved = np.unique(cell_of[classes]).tolist()
        for other in involved[1:]:
            a, b = root(involved[0]), root(other)
            home[max(a, b)] = min(a, b)
    joined: dict[int, list[int]] = {}
    for at in range(len(cells)):
        joined.setdefault(root(at), []).append(at)
    per_root: dict[int, list[int]] = {}
    for number, (classes, _, _) in enumerate(constraints):
        per_root.setdefault(root(int(cell_of[classes[0]])), []).append(number)
    groups, stuck = [], []
    for first, parts in joined.items():
        own = [constraints[number] for number in per_root.get(first, [])]
        component = [Cell(cells[at]) for at in parts]
        failure = _balance(component, parts, own, cell_of) if own else None
        if failure is None:
            groups.append(component)
        else:
            stuck.append((component, failure))
    return groups, stuck


def _counts(rows: list[Ids], labels: Ids, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct classes of a balance and how often each occurs in each row."""
    which = np.concatenate([np.full(row.size, at) for at, row in enumerate(rows)])
    flat = labels[np.concatenate([row.ravel() for row in rows])]
    classes, position = np.unique(flat, return_inverse=True)
    counts = np.zeros((len(classes), len(rows)), dtype=np.int64)
    np.add.at(counts, (position, which), 1)
    return classes, counts


def _cells(
    key: np.ndarray, candidates: np.ndarray, count: int
) -> tuple[list[np.ndarray], np.ndarray]:
    cell_of = np.full(count, -1, dtype=np.int64)
    if not len(candidates):
        return [], cell_of
    _, position = np.unique(key[candidates], return_inverse=True)
    order = np.argsort(position, kind="stable")
    bounds = np.flatnonzero(np.diff(position[order])) + 1
    cells = [candidates[part] for part in np.split(order, bounds)]
    for at, cell in enumerate(cells):
        cell_of[cell] = at
    return cells, cell_of


def _balance(
    component: list[Cell],
    parts: list[int],
    constraints: list[tuple[np.ndarray, np.ndarray, str]],
    cell_of: np.ndarray,
) -> str | None:
    """Find how many classes a unit takes from each cell; None when found, else why not."""
    place = {at: position for position, at in enumerate(parts)}
    matrices = []
    for classes, counts, _ in constraints:
        matrix = np.zeros((len(parts), counts.shape[1]), dtype=np.int64)
        matrix[[place[int(at)] for at in cell_of[classes]]] = counts
        matrices.append(matrix)
    sizes = np.array([len(cell.classes) for cell in component])
    weight = np.maximum(np.max([matrix.max(axis=1) for matrix in matrices], axis=0), 1)
    options = [sizes // math.gcd(*sizes.tolist()), math.lcm(*weight.tolist()) // weight,
               np.ones_like(sizes)]  # fmt: skip
    for take in options:
        if all(_even(take @ matrix) for matrix in matrices) and (sizes >= take).all():
            for cell, number in zip(component, take.tolist(), strict=True):
                cell.take = number
            return None
    return constraints[0][2] + ", which no choice of indices can do"


def _even(totals: np.ndarray) -> bool:
    return bool((totals == totals[0]).all())


def _assign_members(groups: list[Group], members: list[Member], count: int) -> None:
    """Give every group its members and the name of its first producer."""
    group_of = np.full(count, -1, dtype=np.int64)
    for number, group in enumerate(groups):
        group_of[group.classes] = number
    for member in members:
        for number in np.unique(group_of[member.classes]).tolist():
            if number >= 0:
                groups[number].members.append(member)
    for group in groups:
        ranked = sorted(
            group.members, key=lambda member: ("producer", "consumer", "other").index(member.role)
        )
        group.name = ranked[0].name if ranked else "?"
