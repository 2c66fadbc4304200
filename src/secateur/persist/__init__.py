"""Save a pruned model and load it back into the dense model's constructor; never pickle.

One safetensors file holds the tensors and, in its metadata, the plans that made them so small.
Loading replays the plans on a freshly built dense model and then copies the tensors in.
"""

from __future__ import annotations

from secateur.persist.loading import load
from secateur.persist.saving import save

__all__ = ["load", "save"]
