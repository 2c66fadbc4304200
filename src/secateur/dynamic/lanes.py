"""How one dimension of a layer lies on the units of gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from secateur.dynamic.flow import Bucket, Choice, Flow
from secateur.dynamic.gates import Gate
from secateur.graph.lanes import Ids

__all__ = ["Lanes", "along"]


def along(values: Tensor, x: Tensor, dim: int) -> Tensor:
    """``[examples, size]`` in the shape that multiplies a dimension of ``x``.

    Examples
    --------
    >>> along(torch.ones(2, 3), torch.ones(2, 3, 4, 4), 1).shape
    torch.Size([2, 3, 1, 1])
    >>> along(torch.ones(2, 3), torch.ones(2, 5, 3), -1).shape
    torch.Size([2, 1, 3])
    """
    shape = [1] * x.dim()
    shape[0], shape[dim] = values.shape
    return values.view(shape)


@dataclasses.dataclass(eq=False)
class _Part:
    gate: Gate
    units: Ids
    same: bool


class Lanes:
    """The indices of one dimension, and which unit of which gate each of them is.

    Parameters
    ----------
    parts : sequence of (Gate, ndarray)
        For each gate the unit of every index, ``[size]``; -1 where it is none of the gate's.
    """

    def __init__(self, parts: Sequence[tuple[Gate, Ids]]) -> None:
        self._parts = [
            _Part(gate, units, np.array_equal(units, np.arange(gate.units)))
            for gate, units in parts
        ]
        self.size = len(self._parts[0].units)
        self._index = {id(part): torch.from_numpy(part.units.clip(0)) for part in self._parts}
        self._inside = {id(part): torch.from_numpy(part.units >= 0) for part in self._parts}

    def __getstate__(self) -> dict[str, object]:
        return {"parts": [(part.gate, part.units) for part in self._parts]}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["parts"])  # type: ignore

    @property
    def gates(self) -> list[Gate]:
        return [part.gate for part in self._parts]

    @property
    def skips(self) -> bool:
        return any(part.gate.skips for part in self._parts)

    # Masked ---------------------------------------------------------------------------------------

    def masked(self, x: Tensor, dim: int) -> Tensor:
        """What is read, with closed units at zero and the others scaled."""
        for part in self._parts:
            x = x * along(self._factor(part, x), x, dim)
        return x

    def _factor(self, part: _Part, x: Tensor) -> Tensor:
        decision = part.gate.decision
        assert decision is not None
        factor = decision.open
        if part.gate.scales_reads and decision.scale is not None:
            factor = factor * decision.scale
        if not part.same:
            index, inside = self._index[id(part)], self._inside[id(part)]
            factor = factor.index_select(1, index.to(factor.device))
            factor = torch.where(inside.to(factor.device), factor, torch.ones_like(factor))
        return factor.to(x.dtype)

    # Skipping -------------------------------------------------------------------------------------

    def choice(self, present: bool = False) -> Choice | None:
        """The indices that all examples of the batch compute; None for all.

        Parameters
        ----------
        present : bool
            Only those that are left out of the tensors in between as well.
        """
        if len(self._parts) == 1:
            (part,) = self._parts
            flow = _flow(part.gate)
            if flow.mask is None or (present and not part.gate.narrow):
                return None
            return flow.choice(id(self), None if part.same else part.units)
        chosen: np.ndarray | None = None
        for part in self._parts:
            flow = _flow(part.gate)
            if flow.mask is not None and (part.gate.narrow or not present):
                open_ = flow.mask if part.same else flow.mask[part.units] | (part.units < 0)
                chosen = open_ if chosen is None else chosen & open_
        return None if chosen is None else Choice.of(chosen)

    @property
    def buckets(self) -> list[tuple[Tensor, Choice]]:
        """Examples apart, each with the indices that are open for them."""
        if len(self._parts) != 1:
            return []
        (part,) = self._parts
        return [(each.rows, Choice.of(self._at(part, each))) for each in _flow(part.gate).buckets]

    def _at(self, part: _Part, bucket: Bucket) -> np.ndarray:
        return bucket.mask if part.same else bucket.mask[part.units] | (part.units < 0)

    def settled(self, x: Tensor, dim: int, chosen: Choice | None, *, clean: bool) -> Tensor:
        """What is read, chosen, with the masks of gates that are not left out here.

        Parameters
        ----------
        clean : bool
            Whether something else looks at ``x``: what is closed in some examples only holds what
            it happens to, between two layers, and must be zero then.
        """
        for part in self._parts:
            flow = _flow(part.gate)
            apart = bool(flow.buckets) and len(self._parts) == 1 and not clean
            bare = flow.mask is not None or apart
            decision = part.gate.decision
            assert decision is not None
            scaled = part.gate.scales_reads and decision.scale is not None
            if bare and not scaled:
                continue
            factor = self._factor(part, x)
            if chosen is not None:
                factor = chosen.take(factor, 1)
            x = x * along(factor, x, dim)
        return x


def _flow(gate: Gate) -> Flow:
    assert gate.flow is not None
    return gate.flow
