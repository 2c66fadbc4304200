"""Coupled groups as a regularizer sees them: the rows of every tensor that leave with a unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from secateur.attached.targets import wide
from secateur.errors import NothingToPruneError
from secateur.graph import trace
from secateur.graph.coupling import Group, Member
from secateur.ignored import ignored_tensors
from secateur.inputs import ExampleInputs

__all__ = ["CoupledUnits", "Rows", "find_coupled"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """One dimension of a parameter, and the unit that each of its indices belongs to.

    Attributes
    ----------
    name : str
    parameter : nn.Parameter
    dim : int
    units : Tensor of int64
        −1 where an index belongs to no unit.
    """

    name: str
    parameter: nn.Parameter
    dim: int
    units: Tensor

    def sums(self, entries: Tensor, size: int) -> Tensor:
        """Sum over the indices of every unit, ``[size]``."""
        other = [axis for axis in range(entries.dim()) if axis != self.dim]
        per_index = entries.sum(other) if other else entries
        inside = self.units >= 0
        result = torch.zeros(size, dtype=per_index.dtype, device=per_index.device)
        return result.index_add(0, self.units[inside], per_index[inside])

    def spread(self, values: Tensor, outside: float = 0.0) -> Tensor:
        """The value of its unit for every index, shaped to multiply the parameter."""
        rest = torch.tensor([outside], dtype=values.dtype, device=values.device)
        # The last place is where −1 points.
        along = torch.cat([values, rest])[self.units]
        return along.reshape([-1 if axis == self.dim else 1
                              for axis in range(self.parameter.dim())])  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CoupledUnits:
    """The units of one coupled group.

    Attributes
    ----------
    name : str
    size : int
    rows : list of Rows
    """

    name: str
    size: int
    rows: list[Rows]

    def squares(self) -> Tensor:
        """Sum of squares of everything in a unit, ``[size]``; gradients flow through it."""
        parts = [rows.sums(wide(rows.parameter).square(), self.size) for rows in self.rows]
        return torch.stack(parts).sum(0)


def find_coupled(
    model: nn.Module,
    example_inputs: ExampleInputs,
    ignore: Sequence[str | nn.Module],
    wanted: Callable[[str, Member], bool],
) -> tuple[list[CoupledUnits], list[tuple[str, str]]]:
    """The coupled groups of a model, with those of their trained parameters that are wanted.

    Raises
    ------
    NothingToPruneError
        When there is none.
    """
    ignored = ignored_tensors(model, ignore)
    graph = trace(model, example_inputs)
    named = dict(model.named_parameters(remove_duplicate=False))
    found: list[CoupledUnits] = []
    skipped = list(graph.protected)
    for group in graph.groups:
        held = [member.name for member in group.members if member.name in ignored]
        if group.protected or held:
            skipped.append((group.name, ignored[held[0]] if held else "its group is protected"))
            continue
        unit_of = _unit_of(group, graph.n_classes)
        rows = [
            Rows(member.name, named[member.name], member.dim, units.to(named[member.name].device))
            for member in group.members
            if member.name in named
            and named[member.name].requires_grad
            and wanted(member.name, member)
            and bool(((units := torch.from_numpy(unit_of[member.classes])) >= 0).any())
        ]
        if rows:
            found.append(CoupledUnits(group.name, group.size, rows))
        else:
            skipped.append((group.name, "all its parameters are frozen: requires_grad is False"))
    if not found:
        raise NothingToPruneError("the model has no coupled group of channels that is trained")
    return found, skipped


def _unit_of(group: Group, n_classes: int) -> np.ndarray:
    units = group.units()
    result = np.full(n_classes, -1, dtype=np.int64)
    result[units] = np.arange(len(units))[:, None]
    return result
