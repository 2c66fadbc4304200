"""What modules and trial runs add to a graph: dimensions that keep one size, or cannot change."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from secateur.graph.lanes import Lane
from secateur.graph.propagate import Propagation
from secateur.graph.trace import Trace

__all__ = ["Constraint", "Fix", "SameSize", "known_constraints"]


@dataclasses.dataclass(frozen=True)
class Fix:
    """A dimension of a value cannot change."""

    value: int
    dim: int
    reason: str

    def __call__(self, p: Propagation) -> None:
        p.ledger.protect(_lane(p, self.value, self.dim), self.reason)


@dataclasses.dataclass(frozen=True)
class SameSize:
    """Two dimensions shrink to one size, whichever indices each of them loses.

    A view of ``C`` channels as ``heads x C // heads``, with ``C`` read off another tensor.
    Where ``a`` is a multiple of ``b``, as many of its rows as make up ``b`` are meant.
    """

    a: tuple[int, int]
    b: tuple[int, int]
    reason: str

    def __call__(self, p: Propagation) -> None:
        a, b = _lane(p, *self.a), _lane(p, *self.b)
        if a is None or b is None:
            for lane in (a, b):
                p.ledger.protect(lane, self.reason)
            return
        first, second = p.ledger.ids(a).ravel(), p.ledger.ids(b).ravel()
        # The heads of one of query, key and value make up the width that was read.
        if first.size > second.size:
            first = first[: second.size]
        elif first.size < second.size:
            first = np.tile(first, second.size // first.size)
        p.ledger.balance([first, second], self.reason)


Constraint = Fix | SameSize


def _lane(p: Propagation, value: int, dim: int) -> Lane | None:
    return p.layout(value)[dim]


def known_constraints(model: nn.Module, trace: Trace) -> list[Constraint]:
    """Sizes that PyTorch's own modules read off each other.

    nn.MultiheadAttention takes the width of its heads from the width of its query.
    """
    at = {value.name: index for index, value in enumerate(trace.values) if value.kind == "state"}
    found: list[Constraint] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            prefix = f"{path}." if path else ""
            own = "in_proj_weight" if module.in_proj_weight is not None else "q_proj_weight"
            names = (prefix + own, f"{prefix}out_proj.weight")
            if all(name in at for name in names):
                a, b = ((at[name], 1) for name in names)
                reason = f"nn.MultiheadAttention {path!r} takes its heads' width from its query"
                found.append(SameSize(a, b, reason))
    return found
