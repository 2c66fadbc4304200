"""Masks: parts of weights that are zero, and stay zero through any training."""

from __future__ import annotations

from secateur.masks import training as _training  # Optimizers are watched from here on.
from secateur.masks.functions import apply_masks, masks_of, put_masks
from secateur.masks.keeper import Keeper, keeper_of
from secateur.masks.places import Place, effective, mask_at, places
from secateur.masks.removal import finalize, remove_masks
from secateur.masks.states import KeeperStates, carry_over, forget_values

__all__ = [
    "Keeper",
    "KeeperStates",
    "Place",
    "apply_masks",
    "carry_over",
    "effective",
    "finalize",
    "forget_values",
    "keeper_of",
    "mask_at",
    "masks_of",
    "places",
    "put_masks",
    "remove_masks",
]

_training.watch()
