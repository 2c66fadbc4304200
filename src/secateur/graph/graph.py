"""The coupling graph of a model: which indices of which tensors can only leave together."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from torch import nn

from secateur.graph import rules  # noqa: F401  (registers every rule)
from secateur.graph.constraints import Constraint, known_constraints
from secateur.graph.coupling import Coupling, Group, Member, couple
from secateur.graph.lanes import Ids, Lane
from secateur.graph.propagate import Propagation
from secateur.graph.trace import Trace, record
from secateur.inputs import ExampleInputs, as_inputs

__all__ = ["Graph", "trace"]


class Graph:
    """Index-level coupling of every dimension of every parameter and buffer.

    Attributes
    ----------
    groups : list of Group
        What can be removed.
    members : list of Member
        Every used dimension of every parameter and buffer.
    n_classes : int
        A class is a set of positions that can only be removed together.
    protected : list of (str, str)
        Parameters whose dimensions cannot change at all, and why.
    """

    def __init__(
        self,
        model: nn.Module,
        recorded: Trace,
        *,
        split_choice: dict[int, int] | None = None,
        extra: list[Constraint] | None = None,
        ignore: dict[str, str] | None = None,
        open_inputs: bool = False,
        open_outputs: bool = False,
    ) -> None:
        self.trace = recorded
        self.parameters = {name for name, _ in model.named_parameters()}
        self._ignore = ignore or {}
        choice = dict(split_choice or {})
        self._tried: dict[int, set[int]] = {}
        constraints = [*known_constraints(model, recorded), *(extra or [])]
        # A split none of whose inner parts can shrink may still lose whole rows.
        for _ in range(4):
            self.propagation = Propagation(
                recorded, choice, open_inputs=open_inputs, open_outputs=open_outputs
            ).run()
            for constraint in constraints:
                constraint(self.propagation)
            self._ignored()
            self.coupling = self._settle()
            outward = self._stuck_splits()
            if not outward:
                break
            choice.update(outward)
        self.split_choice = choice
        if open_inputs:
            self._close(self._places("input"), "consumer", "it is an input that no weight reads")
        if open_outputs:
            self._close(self._places("output"), "producer", "it is an output that no weight makes")

    def boundary(self, side: str) -> list[tuple[str, int, Ids]]:
        """Every dimension of the model's inputs or outputs that may change, with its classes.

        Parameters
        ----------
        side : {"input", "output"}

        Returns
        -------
        list of (name, dim, classes)
        """
        return [
            (name, dim, self.coupling.labels[lane.ids])
            for name, index in self._places(side)
            for dim, lane in enumerate(self.propagation.layout(index))
            if lane is not None and lane.ids is not None and not lane.rows
        ]

    def _places(self, side: str) -> list[tuple[str, int]]:
        if side == "output":
            return self.trace.outputs
        values = enumerate(self.trace.values)
        return [(value.name, index) for index, value in values if value.kind == "input"]

    def _close(self, places: list[tuple[str, int]], role: str, reason: str) -> None:
        """Leave alone what only seems to be features: positions, say, that a parameter adds to."""
        met = np.zeros(self.n_classes, dtype=bool)
        for _, index in places:
            for lane in self.propagation.layout(index):
                if lane is not None and lane.ids is not None:
                    met[self.coupling.labels[lane.ids]] = True
        stay = []
        for group in self.groups:
            if met[group.classes].any() and all(member.role != role for member in group.members):
                self.coupling.reasons.update(dict.fromkeys(group.classes.tolist(), reason))
            else:
                stay.append(group)
        self.coupling.groups[:] = stay

    def _ignored(self) -> None:
        p = self.propagation
        for index, value in enumerate(self.trace.values):
            reason = self._ignore.get(value.name) if value.kind == "state" else None
            if reason is None:
                continue
            for dim, lane in enumerate(p.layout(index)):
                bound = lane is not None and lane.ids is not None
                if bound and self._role(value.name, dim, index) != "consumer":
                    p.ledger.protect(lane, reason)

    def _settle(self) -> Coupling:
        p = self.propagation
        members: list[tuple[str, int, str, Ids]] = []
        for index, value in enumerate(self.trace.values):
            if value.kind != "state":
                continue
            for dim, lane in enumerate(p.layout(index)):
                if lane is not None and lane.ids is not None:
                    members.append((value.name, dim, self._role(value.name, dim, index), lane.ids))
        return couple(p.ledger, members)

    def _role(self, name: str, dim: int, index: int) -> str:
        if name not in self.parameters:
            return "other"
        producing = self.propagation.producers.get(name)
        if producing is not None:
            return "producer" if dim in producing else "consumer"
        if len(self.trace.values[index].shape) < 2:
            return "other"
        return "producer" if dim == 0 else "consumer"

    def _stuck_splits(self) -> dict[int, int]:
        coupling = self.coupling
        frozen = np.zeros(coupling.n_classes, dtype=bool)
        frozen[list(coupling.reasons)] = True
        outward = {}
        for node, split in self.propagation.splits.items():
            tried = self._tried.setdefault(node, {split.choice})
            others = [at for at in range(split.choices) if at not in tried]
            if others and frozen[coupling.labels[split.ids]].all():
                outward[node] = others[0]
                tried.add(others[0])
        return outward

    @property
    def groups(self) -> list[Group]:
        return self.coupling.groups

    @property
    def members(self) -> list[Member]:
        return self.coupling.members

    @property
    def n_classes(self) -> int:
        return self.coupling.n_classes

    @cached_property
    def protected(self) -> list[tuple[str, str]]:
        """Weights whose output dimension cannot change at all, and the first reason."""
        listed = []
        reasons = self.coupling.reasons
        frozen = np.zeros(self.n_classes, dtype=bool)
        frozen[list(reasons)] = True
        for member in self.members:
            if member.name in self.parameters and member.role != "consumer":
                classes = member.classes
                counts = len(classes) and (member.role == "producer" or len(classes) > 1)
                if counts and frozen[classes].all():
                    listed.append((member.name, reasons[int(classes[0])]))
        seen = {member.name for member in self.members}
        for value in self.trace.values:
            unused = value.kind == "state" and value.name not in seen
            if unused and value.name in self.parameters and max(value.shape, default=1) > 1:
                listed.append((value.name, "no operation of the forward pass uses it"))
        return listed

    def classes_of(self, lane: Lane) -> Ids:
        """Classes along a lane, ``[*rows, size]``."""
        assert lane.ids is not None
        return self.coupling.labels[lane.ids]

    def __repr__(self) -> str:
        units = sum(group.size for group in self.groups)
        return (
            f"Graph({len(self.trace.nodes)} operations, {len(self.groups)} coupled groups, "
            f"{units} removable units, {len(self.protected)} protected)"
        )


def trace(model: nn.Module, example_inputs: ExampleInputs) -> Graph:
    """Trace a model and return its coupling graph.

    Parameters
    ----------
    model : torch.nn.Module
    example_inputs : tensor, tuple or dict
        One batch that the model accepts.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = trace(net, torch.zeros(1, 4))
    >>> [(group.name, group.size) for group in graph.groups]
    [('0.weight', 8)]
    """
    inputs = as_inputs(example_inputs)
    return Graph(model, record(model, inputs))
