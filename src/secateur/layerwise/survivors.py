"""What is left of a model, and what it was: all that an update of the survivors needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import Tensor, nn

from secateur.layerwise.reconstruct import HELD_OUT, Refit, Solver, reconstruct
from secateur.layerwise.sweep import Amount
from secateur.observing.reading import Reading
from secateur.weights import parameter_names, prunable_weights

__all__ = ["Survivors"]


@dataclasses.dataclass
class Survivors:
    """A pruned copy of a model beside the model.

    Attributes
    ----------
    model : nn.Module
        A copy, to be changed. Where units were taken out, they are out; where entries become zero,
        it is dense still.
    dense : nn.Module
        What it was; not to be changed.
    reading : Reading
    masks : dict
        Weight name -> True where it may be other than zero, as the module stores it.
    amounts : dict
        Weight name -> how much of it becomes zero, where an update may choose anew which entries.
    held : dict
        Weight name -> what was masked already, False where it was.
    removed : dict
        Parameter -> dimension -> indices of `dense` that `model` lacks.
    """

    model: nn.Module
    dense: nn.Module
    reading: Reading
    masks: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    amounts: dict[str, Amount] = dataclasses.field(default_factory=dict)
    held: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    removed: dict[str, dict[int, list[int]]] = dataclasses.field(default_factory=dict)

    def consumers(self) -> list[str]:
        """Weights that lost inputs."""
        weights = list(prunable_weights(self.model))
        names = parameter_names(self.model, weights)
        return [
            weight.name
            for weight in weights
            if self.removed.get(names[weight.name] or "", {}).get(
                1 if weight.storage == "outputs first" else 0
            )
        ]

    def reconstruct(
        self,
        solve: Solver,
        *,
        sequential: bool,
        positions: int | None = None,
        names: Iterable[str] | None = None,
        unconditional: bool = False,
        held_out: float = HELD_OUT,
    ) -> list[Refit]:
        """Fit the weights that lost something; see `secateur.layerwise.reconstruct`."""
        if names is None:
            names = self.masks if self.masks else self.consumers()
        return reconstruct(
            self.model,
            self.dense,
            self.reading,
            names,
            solve,
            masks=self.held if unconditional else self.masks,
            removed=self.removed,
            held_out=held_out,
            positions=positions,
            sequential=sequential,
            unconditional=unconditional,
        )
