"""Early stopping: the best weights so far, and when to give up waiting for better ones."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from secateur.recover.contents import copied, put_back
from secateur.recover.evaluate import Score

__all__ = ["Best"]


class Best:
    """The weights that did best on the validation batches.

    Better is a higher accuracy, and of equal ones the lower loss; the lower loss alone where
    targets are not class labels.

    Parameters
    ----------
    model : torch.nn.Module
    patience : int
        Epochs in a row that may pass without a better one.
    """

    def __init__(self, model: nn.Module, patience: int) -> None:
        self.model, self.patience = model, patience
        self.epoch = 0
        self._latest = 0
        self._rank: tuple[float, ...] | None = None
        self._values: dict[str, Tensor] = {}

    def see(self, epoch: int, score: Score) -> None:
        """Judge an epoch by its score, with its weights in the model."""
        self._latest = epoch
        # Nothing compares with NaN, so that the first one would stay for good.
        rank: tuple[float, ...] = (-math.inf if math.isnan(score.loss) else -score.loss,)
        if score.accuracy is not None:
            rank = (score.accuracy, *rank)
        if self._rank is None or rank > self._rank:
            self.epoch, self._rank, self._values = epoch, rank, copied(self.model)

    @property
    def exhausted(self) -> bool:
        return self._latest - self.epoch >= self.patience

    def restore(self) -> None:
        """Give the model its best weights back."""
        put_back(self.model, self._values)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; `load` takes it back."""
        rank = None if self._rank is None else list(self._rank)
        return {
            "epoch": self.epoch, "latest": self._latest, "rank": rank, "values": self._values
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.epoch, self._latest = state["epoch"], state["latest"]
        self._rank = None if state["rank"] is None else tuple(state["rank"])
        self._values = state["values"]
