"""Block by block: a large model becomes sparse with one block in memory at a time."""

from __future__ import annotations

from secateur.blockwise.pruning import Blockwise, prune_blockwise

__all__ = ["Blockwise", "prune_blockwise"]
