"""Dynamic pruning: gates that decide for every input what of a model is computed.

Not to be confused with dynamic sparse training (`secateur.dynamic_sparsity`), which moves zeros of
the weights while a model trains and computes the same for every input afterwards.
"""

from __future__ import annotations

from secateur.dynamic.aig import AIG
from secateur.dynamic.cgnet import CGNet
from secateur.dynamic.channel_gating import ChannelGating
from secateur.dynamic.fbs import FBS
from secateur.dynamic.gate import gate
from secateur.dynamic.gated import Gated
from secateur.dynamic.gates import Gate
from secateur.dynamic.measured import Measured
from secateur.dynamic.method import GATES, DynamicMethod
from secateur.dynamic.nested import Nested
from secateur.dynamic.skipnet import SkipNet
from secateur.dynamic.sparse_gating import SparseGating
from secateur.dynamic.training import Objective, train

__all__ = [
    "AIG",
    "FBS",
    "GATES",
    "CGNet",
    "ChannelGating",
    "DynamicMethod",
    "Gate",
    "Gated",
    "Measured",
    "Nested",
    "Objective",
    "SkipNet",
    "SparseGating",
    "gate",
    "train",
]
