"""Fused recurrent layers; unfused ones run as the operations of their cells."""

from __future__ import annotations

from secateur.graph.lanes import Layout
from secateur.graph.propagate import Propagation, rule
from secateur.graph.rules.contraction import FIXED
from secateur.graph.trace import Node, Ref


@rule("aten::mkldnn_rnn_layer")
def lstm_layer(p: Propagation, node: Node) -> list[Layout]:
    """One direction of one LSTM layer: four gates stacked, all tied to the hidden units."""
    x, w_in, w_hidden, b_in, b_hidden, h, c = node.args[:7]
    hidden = p.shape(w_hidden)[1]
    layout = p.aligned(x)
    p.ledger.unite([layout[2], p.aligned(w_in)[1]], {}, p.why(FIXED))
    p.contracts((x.index, 2), (w_in.index, 1))
    # A step reads what the one before it made; the first one reads the state it is given.
    for state, dim in ((node.outputs[0], 2), (h.index, len(p.shape(h)) - 1)):
        p.contracts((w_hidden.index, 1), (state, dim))
    root = p.roots.get(w_in.index)
    unit = p.aligned(w_hidden)[1]
    if unit is None:
        return [[None] * len(p.shape(index)) for index in node.outputs]
    ids = p.ledger.ids(unit)
    for ref in (w_in, w_hidden, b_in, b_hidden):
        if isinstance(ref, Ref):
            gates = p.aligned(ref)[0]
            assert gates is not None
            p.ledger.equate(ids[None, :], p.ledger.ids(gates).reshape(-1, hidden))
            if root is not None and ref is w_in:
                p.producers.setdefault(p.value(root).name, set()).add(0)
    for ref in (h, c):
        p.ledger.unite([unit, p.aligned(ref)[-1]], {}, p.why(FIXED))
    return [[*([None] * (len(p.shape(index)) - 1)), unit if p.shape(index)[-1:] == (hidden,)
             else None] for index in node.outputs]  # fmt: skip
