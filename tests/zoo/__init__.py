"""Small nets, at least one for every way in which models hold and move their channels."""

from __future__ import annotations

# Importing a family registers its nets.
from . import (  # noqa: F401
    ambiguous,
    attention,
    attention_bias,
    bare,
    builtin_attention,
    calling,
    convs,
    elementwise,
    gates,
    generated,
    indexing,
    joining,
    language,
    mixers,
    norms,
    parametrised,
    patches,
    picking,
    recurrent,
    reductions,
    reshaping,
    sharing,
    splitting,
    stateful,
    swin,
    upsampling,
    vision,
    windows,
    yolo,
)
from .masking import mask_norms
from .registry import ZOO, Entry

__all__ = ["ZOO", "Entry", "mask_norms"]
