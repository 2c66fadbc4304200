"""What the sizes of pruned dimensions are multiples of, layer by layer."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from torch import nn

from secateur.costs import CostModel
from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.graph.coupling import Group, Member
from secateur.latency import fast_sizes
from secateur.latency.summed import Share

__all__ = ["AUTO", "RoundTo", "Rounding", "as_rounding"]

AUTO = "auto"

RoundTo: TypeAlias = "int | str | Mapping[str, int | str]"


@dataclasses.dataclass(frozen=True)
class Rounding:
    """Which sizes the dimensions of every layer may have.

    Attributes
    ----------
    rules : tuple of (str, int or "auto")
        Patterns of module names, the first that matches counts; a layer that none matches may
        have any size.
    spec : int, str or dict
        As given.
    """

    rules: tuple[tuple[str, int | str], ...]
    spec: int | str | dict[str, int | str]

    def of(self, layer: str) -> int | str:
        """What the sizes of a layer are multiples of; ``"auto"`` for what its latency says.

        Examples
        --------
        >>> rounding = Rounding((("layer3.*", 16), ("*", 8)), {"layer3.*": 16, "*": 8})
        >>> rounding.of("layer3.0.conv1"), rounding.of("conv1")
        (16, 8)
        """
        return next((value for rule, value in self.rules if fnmatch.fnmatch(layer, rule)), 1)

    @property
    def automatic(self) -> bool:
        """Whether any rule leaves it to the latency."""
        return any(value == AUTO for _, value in self.rules)

    def allowed(
        self, group: Group, min_keep: int, costs: CostModel, units: np.ndarray
    ) -> np.ndarray:
        """Numbers of units that may go, ascending: enough stay, and sizes keep to the rules.

        Parameters
        ----------
        group : Group
        min_keep : int
        costs : CostModel
            Knows the latency where a rule is ``"auto"``.
        units : ndarray of int, shape [units, classes of each]
            Of the group, the first to go first.

        Returns
        -------
        ndarray of int
            With 0 first. A dimension that several groups share loses a multiple: what is already
            one stays so.
        """
        counts = np.arange(max(group.size - min_keep, 0) + 1)
        automatic = False
        for member, per_unit in shrinking(group):
            multiple = self.of(member.name.rpartition(".")[0])
            if isinstance(multiple, str):
                automatic = True
            elif multiple > 1:
                left = shared_size(group, member) - counts * per_unit
                counts = counts[(left % multiple == 0) | (counts == 0)]
        if automatic and costs.table is not None and len(counts) > 1:
            counts = fast_counts(group, counts, costs.latency_of(units), costs.table.tolerance)
        return counts

    @property
    def text(self) -> str:
        """As in a message: ``round_to=8``."""
        return f"round_to={self.spec!r}"


def fast_counts(group: Group, counts: np.ndarray, share: Share, tolerance: float) -> np.ndarray:
    """Of the numbers of units that may go, those that leave a size as fast as no larger one.

    Only sizes at the right end of a measured step count, where there are any: what lies between
    is a guess. Of a dimension that loses several entries with every unit, as one of attention
    heads does, it is the largest size that does not exceed that end.

    Parameters
    ----------
    counts : ndarray of int
        Ascending, 0 first.
    share : Share
        What the operations that the group is part of take.
    tolerance : float
        Relative differences up to this are chance.
    """
    measured = np.zeros(len(counts), dtype=bool)
    for member, per_unit in shrinking(group):
        sizes = len(member.classes) - counts * per_unit
        ends = [np.flatnonzero(sizes <= end)[:1] for end in share.measured(len(member.classes))]
        measured[np.concatenate([*ends, np.zeros(0, dtype=np.int64)])] = True
    tried = counts[measured] if measured[1:].any() else counts
    latency = {-count: share(count) for count in {0, *tried.tolist()}}
    return -np.array(fast_sizes(latency, tolerance))


def shrinking(group: Group) -> list[tuple[Member, int]]:
    """Outputs of weights that shrink evenly with the group, and by how much with every unit."""
    found = []
    for member in group.members:
        inside = int(np.isin(member.classes, group.classes).sum())
        per_unit, uneven = divmod(inside, group.size)
        if member.role == "producer" and per_unit and not uneven:
            found.append((member, per_unit))
    return found


def shared_size(group: Group, member: Member) -> int:
    """The size of a dimension; 0 where other groups share it and it only has to stay in step."""
    whole = bool(np.isin(member.classes, group.classes).all())
    return len(member.classes) if whole else 0


def as_rounding(round_to: object, model: nn.Module) -> Rounding:
    """Read ``round_to=``: a number, ``"auto"``, or a rule for every pattern of layer names.

    Raises
    ------
    InputError
        For anything else.
    UnknownNameError
        For a pattern that matches no module.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> as_rounding({"0": 4, "*": 8}, net).rules
    (('0', 4), ('*', 8))
    >>> as_rounding({"layer1": 4}, net)
    Traceback (most recent call last):
    ...
    secateur.errors.UnknownNameError: round_to: 'layer1' matches no module; choose from 0, 1
    """
    if isinstance(round_to, Rounding):
        return round_to
    if not isinstance(round_to, Mapping):
        value = _multiple(round_to, "round_to")
        return Rounding((("*", value),), value)
    if not round_to:
        raise InputError('round_to must not be empty; write {"layer3.*": 16, "*": 8}, or a number')
    modules = [path for path, _ in model.named_modules() if path]
    rules = []
    for pattern, value in round_to.items():
        if not isinstance(pattern, str):
            raise InputError(f"round_to: a rule is for a pattern of layer names, not {pattern!r}")
        if pattern != "*" and not fnmatch.filter(modules, pattern):
            raise UnknownNameError(
                f"round_to: {pattern!r} matches no module{suggestion(pattern, modules)}"
            )
        rules.append((pattern, _multiple(value, f"round_to[{pattern!r}]")))
    return Rounding(tuple(rules), dict(rules))


def _multiple(value: object, name: str) -> int | str:
    if value == AUTO:
        return AUTO
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            f"{name} must be an integer of at least 1, {AUTO!r} or a dict of layer patterns, "
            f"not {value!r}"
        )
    return value
