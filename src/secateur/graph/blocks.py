"""Blocks of a network: repeated modules that add to what passes through them.

A block returns what it was given, plus what it computed from it, so that the model still runs
without it. Found in the forward pass, whatever classes are called: transformer layers, residual
blocks of convolutional networks, state-space mixers.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict

from torch import nn

from secateur.graph.residual import Ancestry, residual_sums
from secateur.graph.trace import Trace

__all__ = ["Block", "blocks"]


@dataclasses.dataclass(frozen=True)
class Block:
    """One module that can be left out.

    Attributes
    ----------
    path : str
        Of the module.
    given, returned : int
        The value that passes through: before it, and after.
    stack : str
        What it is one of: blocks of the same structure in the same place of the model.
    """

    path: str
    given: int
    returned: int
    stack: str


def blocks(model: nn.Module, trace: Trace) -> list[Block]:
    """Every block of a model, in the order in which they run.

    A module counts if its first result has the shape of its first argument, comes from it both
    without any product and through some, and was called once; and if another module, of the same
    path but for numbers, has parameters of the same names and ranks. Of modules inside each other
    the outer one counts, unless it holds several alike: then it is a stage, and its parts are the
    blocks.

    Examples
    --------
    >>> import torch
    >>> from secateur.inputs import as_inputs
    >>> from secateur.graph.trace import record
    >>> layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    >>> net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    >>> [block.path for block in blocks(net, record(net, as_inputs(torch.zeros(1, 3, 8))))]
    ['layers.0', 'layers.1', 'layers.2']
    """
    ancestry = Ancestry(trace)
    sums = [(node.module, node.outputs[0]) for node in residual_sums(trace, ancestry)]
    signatures: dict[str, str] = {}
    ends: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        given, calls = trace.module_inputs.get(path), trace.module_outputs.get(path, [])
        if not path or not given or len(calls) != 1 or not calls[0]:
            continue
        first, last = given[0], calls[0][0]
        alike = trace.values[first].shape == trace.values[last].shape
        through = ancestry.carried(last, first) and ancestry.made(last, first)
        inside = any(where == path or where.startswith(f"{path}.") for where, _ in sums)
        if alike and first != last and through and inside:
            signatures[path] = f"{re.sub(r'[0-9]+', '#', path)}|{_structure(module)}"
            ends[path] = (first, last)
    return _outermost(signatures, ends)


def _structure(module: nn.Module) -> str:
    """Names and ranks of a module's parameters."""
    named = module.named_parameters(remove_duplicate=False)
    return ";".join(sorted(f"{name}:{parameter.dim()}" for name, parameter in named))


def _outermost(signatures: dict[str, str], ends: dict[str, tuple[int, int]]) -> list[Block]:
    repeated = Counter(signatures.values())
    found = [path for path, signature in signatures.items() if repeated[signature] > 1]
    inside: dict[str, Counter[str]] = defaultdict(Counter)
    for path in found:
        for other in found:
            if other.startswith(f"{path}."):
                inside[path][signatures[other]] += 1
    stages = {path for path, held in inside.items() if max(held.values()) > 1}
    kept = [path for path in found if path not in stages]
    outer = [path for path in kept if not any(path.startswith(f"{other}.") for other in kept)]
    # A part of a block stays one where the block around it is not like the others.
    parts = {signatures[path] for path in kept if path not in outer}
    outer = [path for path in outer if signatures[path] not in parts]
    listed = [
        Block(path, *ends[path], f"{path.rpartition('.')[0]}|{signatures[path]}") for path in outer
    ]
    return sorted(listed, key=lambda block: block.returned)
