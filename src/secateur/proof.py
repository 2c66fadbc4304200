"""The proof that a smaller model computes what it should."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import torch
from torch import nn

from secateur.decide import Decision
from secateur.errors import InputError, ParityError
from secateur.inputs import Inputs
from secateur.surgery.apply import apply_plan
from secateur.surgery.transaction import Snapshot
from secateur.verify import TOLERANCE, Outputs, difference, masked_outputs, outputs

__all__ = ["Proof"]


@dataclasses.dataclass(frozen=True)
class Proof:
    """What the smaller model has to equal, and on which inputs.

    Attributes
    ----------
    inputs : list of Inputs
    masked : bool, default True
        Whether that is the model with the removed indices masked, or the model as it is.
    probes : list of Inputs
        More of them, which count only where the model as it was runs on them.
    """

    inputs: list[Inputs]
    masked: bool = True
    probes: list[Inputs] = dataclasses.field(default_factory=list)

    def error(self, model: nn.Module, decision: Decision, snapshot: Snapshot) -> float:
        """Largest absolute difference; the model is put back.

        Raises
        ------
        ParityError
            Where it is more than rounding explains.
        """
        dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
        tolerance = max((TOLERANCE.get(dtype, 1e-4) for dtype in dtypes), default=1e-4)
        # Half precision rounds too much to compare in, and takes longer than single on many CPUs.
        halves = dtypes & {torch.float16, torch.bfloat16}
        precision = torch.float32 if halves else None
        error, relative = self._compare(model, decision, snapshot, precision)
        if not relative <= tolerance and math.isfinite(relative) and not halves:
            # Rounding, or a wrong index? Double precision tells them apart.
            tolerance = 1e-6
            _, relative = self._compare(model, decision, snapshot, torch.float64)
        if not relative <= tolerance:
            what = "the masked one" if self.masked else "the model as it was"
            raise ParityError(
                f"the smaller model differs from {what} by {relative:.3g} of the largest "
                f"output (tolerance {tolerance:g}); the model was restored"
            )
        return error

    def _compare(
        self,
        model: nn.Module,
        decision: Decision,
        snapshot: Snapshot,
        precision: torch.dtype | None,
    ) -> tuple[float, float]:
        plan, graph = decision.plan, decision.graph
        expected = [
            (given, self._expected(model, given, decision, precision)) for given in self.inputs
        ]
        for given in self.probes:
            with contextlib.suppress(InputError):
                expected.append((given, self._expected(model, given, decision, precision)))
        apply_plan(plan, model)
        found = [
            difference(outputs(model, plan.narrow_inputs(given), graph, precision), wanted)
            for given, wanted in expected
        ]
        snapshot.restore()
        return max(error for error, _ in found), max(relative for _, relative in found)

    def _expected(
        self, model: nn.Module, given: Inputs, decision: Decision, precision: torch.dtype | None
    ) -> Outputs:
        plan, graph, removed = decision.plan, decision.graph, decision.selection.removed
        if self.masked:
            return masked_outputs(model, given, graph, plan, removed, precision)
        return outputs(model, given, graph, precision)
