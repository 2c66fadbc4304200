"""Sums of a value with what was computed from it: where a residual stream goes on."""

from __future__ import annotations

from secateur.graph.attention import FUSED
from secateur.graph.trace import Node, Trace

__all__ = ["Ancestry", "residual_sums"]

SUMS = frozenset({"aten::add", "aten::sub"})
PRODUCTS = FUSED | {
    f"aten::{name}"
    for name in "mm addmm bmm baddbmm convolution mv addmv _grouped_mm _trilinear".split()
}


class Ancestry:
    """Which values each value was computed from, with products on the way and without.

    Examples
    --------
    >>> import torch
    >>> from secateur.graph import trace
    >>> graph = trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    >>> [(name, given)] = [(v.name, i) for i, v in enumerate(graph.trace.values)
    ...                    if v.kind == "input"]
    >>> [(_, returned)] = graph.trace.outputs
    >>> ancestry = Ancestry(graph.trace)
    >>> ancestry.made(returned, given), ancestry.carried(returned, given)
    (True, False)
    """

    def __init__(self, trace: Trace) -> None:
        # Integers as sets of values: a bit for each.
        self._carried = [1 << index for index in range(len(trace.values))]
        self._made = [0] * len(trace.values)
        for node in trace.nodes:
            self._note(node)

    def _note(self, node: Node) -> None:
        carried = made = 0
        for index in node.inputs:
            carried |= self._carried[index]
            made |= self._made[index]
        if node.op in PRODUCTS:
            carried, made = 0, made | carried
        for index in node.outputs:
            self._carried[index] |= carried
            self._made[index] |= made

    def made(self, value: int, ancestor: int) -> bool:
        """Whether a value was computed from another with a product in between."""
        return bool(self._made[value] >> ancestor & 1)

    def carried(self, value: int, ancestor: int) -> bool:
        """Whether a value was computed from another without a product in between."""
        return bool(self._carried[value] >> ancestor & 1)


def residual_sums(trace: Trace, ancestry: Ancestry) -> list[Node]:
    """Additions of two alike values of which one was made from the other by products."""
    found = []
    for node in trace.nodes:
        if node.op not in SUMS or len(node.inputs) != 2:
            continue
        a, b = node.inputs
        shapes = {trace.values[index].shape for index in (a, b, node.outputs[0])}
        if (
            len(shapes) == 1
            and len(shapes.pop()) > 1
            and (ancestry.made(a, b) or ancestry.made(b, a))
        ):
            found.append(node)
    return found
