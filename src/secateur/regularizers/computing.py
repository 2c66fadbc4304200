"""Regularizers that change what a layer computes with, until they are finished."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from secateur.attached import Target, compute_weights, find_targets
from secateur.errors import NothingToPruneError
from secateur.inputs import ExampleInputs
from secateur.regularizers.base import Regularizer
from secateur.sparsity.table import SparseGranularity

__all__ = ["Computing"]


class Computing(Regularizer):
    """Base of those: each weight is computed by a rule, and `finish` makes it plain again."""

    units: SparseGranularity

    @abstractmethod
    def rule(self, target: Target) -> nn.Module:
        """The rule of one weight."""

    def fits(self, target: Target) -> str | None:
        """Why a weight does not suit the method; None where it does."""
        return None

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        targets, self.skipped = find_targets(model, self.units, ignore)
        reasons = {target.name: self.fits(target) for target in targets}
        self.skipped += [(name, why) for name, why in reasons.items() if why is not None]
        targets = [target for target in targets if reasons[target.name] is None]
        self.computed, past = compute_weights(model, targets, self.rule)
        self.skipped += past
        if not self.computed:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.skipped[:3])
            raise NothingToPruneError(f"regularizer {self.name!r} fits no weight ({why})")

    def parameters(self) -> list[nn.Parameter]:
        return [value for each in self.computed for value in each.rule.parameters()]

    def finish(self) -> None:
        # The last made first, so that names come back in their order.
        for each in reversed(self.computed):
            each.fold()
        self.computed = []

    def state(self) -> dict[str, Any]:
        rules = {each.target.name: each.rule.state_dict() for each in self.computed}
        return {
            "rules": {
                name: {key: value.clone() for key, value in values.items()}
                for name, values in rules.items()
            }
        }

    def load(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for each in self.computed:
                each.rule.load_state_dict(state["rules"][each.target.name])
