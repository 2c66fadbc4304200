"""What a trial takes away, in short: the key that its value is kept under."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from torch import Tensor

from secateur.graph.graph import Graph

__all__ = ["masking", "removal"]


def removal(graph: Graph, removed: np.ndarray) -> str:
    """What goes of which tensor."""
    gone = sorted(
        (member.name, member.dim, np.flatnonzero(removed[member.classes]).tolist())
        for member in graph.members
        if removed[member.classes].any()
    )
    return hashlib.sha256(json.dumps(gone).encode()).hexdigest()[:32]


def masking(name: str, mask: Tensor) -> str:
    """Which entries of which weight become zero."""
    packed = np.packbits(mask.cpu().numpy())
    return hashlib.sha256(name.encode() + b"\0" + packed.tobytes()).hexdigest()[:32]
