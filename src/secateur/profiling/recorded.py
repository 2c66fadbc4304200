"""A profile from a forward pass that was recorded already."""

from __future__ import annotations

from torch import nn

from secateur.graph.trace import Ref, Trace
from secateur.profiling.macs import COUNTED, node_macs
from secateur.profiling.profile import Profile, profile_state

__all__ = ["profile_recorded"]


def profile_recorded(
    model: nn.Module, recorded: Trace, nonzero: dict[str, int] | None = None
) -> Profile:
    """What the recorded operations cost, and what the model holds now.

    Parameters
    ----------
    nonzero : dict, optional
        Non-zero entries of parameters that were counted already.
    """
    macs: dict[str, int] = {}
    for node in recorded.nodes:
        if node.op in COUNTED:
            inputs = [
                recorded.values[argument.index].shape if isinstance(argument, Ref) else None
                for argument in node.args
            ]
            results = [recorded.values[index].shape for index in node.outputs]
            counted = node_macs(node.op, inputs, results, node.args)
            macs[node.module] = macs.get(node.module, 0) + counted
    return profile_state(model, macs, nonzero=nonzero)
