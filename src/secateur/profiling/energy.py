"""An estimate of the energy of one forward pass, from published energies of operations.

The figures are those of M. Horowitz, "Computing's energy problem (and what we can do about it)",
ISSCC 2014, for a 45 nm process at 0.9 V. They are an estimate, good for comparing one size of a
model with another, and not what a meter on a given machine would show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import torch

from secateur.graph.trace import INCIDENTAL, Node, Trace
from secateur.profiling.storage import makes_view

__all__ = ["PICOJOULES_PER_BYTE", "Energy", "mac_energy"]

# A multiplication and an addition, picojoules. The table has no 64-bit floats and no bfloat16:
# they count as the nearest it has.
FLOAT32, FLOAT16, INT32, INT8 = 3.7 + 0.9, 1.1 + 0.4, 3.1 + 0.1, 0.2 + 0.03
MAC_PICOJOULES = {
    torch.float16: FLOAT16,
    torch.bfloat16: FLOAT16,
    torch.int8: INT8,
    torch.uint8: INT8,
    torch.int32: INT32,
    torch.int64: INT32,
}

PICOJOULES_PER_BYTE = 1300 / 8
"""Of a DRAM access: the lower end of the 1.3 to 2.6 nanojoules for 64 bits."""


def mac_energy(dtype: torch.dtype) -> float:
    """Picojoules of one multiplication and one addition.

    Examples
    --------
    >>> mac_energy(torch.float32), mac_energy(torch.float16)
    (4.6, 1.5)
    """
    return MAC_PICOJOULES.get(dtype, FLOAT32)


class Energy:
    """Picojoules of the multiplications, additions and memory traffic of one forward pass.

    Every operation is taken to read its operands from memory once and to write its results once:
    nothing stays in a cache, and no two operations run as one. Views move nothing.

    Parameters
    ----------
    trace : Trace
    """

    def __init__(self, trace: Trace) -> None:
        values = trace.values
        self._dtypes = [value.dtype for value in values]
        self._moved = [
            index for node in trace.nodes if _moves(node) for index in (*node.inputs, *node.outputs)
        ]

    def __call__(self, macs: Iterable[tuple[Node, int]], shapes: Sequence[Sequence[int]]) -> float:
        """Picojoules, where values have these shapes.

        Parameters
        ----------
        macs : iterable of (Node, int)
            Counted operations, and how often each multiplies and adds.
        shapes : sequence of tuple of int
            Of every value of the trace.
        """
        dtypes = self._dtypes
        computed = sum(count * mac_energy(dtypes[node.outputs[0]]) for node, count in macs)
        moved = sum(prod(shapes[at]) * dtypes[at].itemsize for at in self._moved)
        return computed + moved * PICOJOULES_PER_BYTE


def _moves(node: Node) -> bool:
    copies = node.op in ("aten::clone", "aten::_to_copy")
    return not makes_view(node) and (copies or node.op not in INCIDENTAL)
