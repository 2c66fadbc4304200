"""What pruning returns."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from secateur.configs import Configured
from secateur.inputs import Inputs
from secateur.latency import LatencyCheck
from secateur.layerwise import Refit
from secateur.plan import Plan
from secateur.profiling import Profile

__all__ = ["GroupSummary", "Result"]


@dataclasses.dataclass(frozen=True)
class GroupSummary:
    """One coupled group, or one masked weight, before and after.

    Attributes
    ----------
    name : str
        Its first producer.
    members : tuple of (str, int)
        Name and dimension of everything that shrinks with it; empty where entries become zero.
    before, after : int
        Units (channels, blocks, weights) that it had and has.
    """

    name: str
    members: tuple[tuple[str, int], ...]
    before: int
    after: int


@dataclasses.dataclass(eq=False)
class Result:
    """What pruning did.

    Attributes
    ----------
    model : torch.nn.Module
        The same object, changed in place.
    plan : Plan
    before, after : Profile
        Measured on the example inputs; ``after`` on the operations that run now.
    skipped : list of (str, str)
        What was protected, and why.
    error : float or None
        Largest absolute difference between the smaller and the masked model over the example
        inputs; None when verification was switched off.
    groups : list of GroupSummary
    inputs : Inputs
        The example inputs, without what the model no longer takes.
    refits : list of Refit
        What a criterion that changes the survivors gained, weight by weight.
    costs : dict of str to (float, float)
        Per measure of the cost model, the budget's among them, the dense model and the pruned one;
        empty for sparse granularities.
    latency : LatencyCheck or None
        With a budget of latency, the ratio that was predicted and the one of both models timed
        whole, in turns.
    config : Configured or None
        Whether the configuration that the model carries can say what it is now, so that
        ``save_pretrained`` keeps it; None for a model without one.
    """

    model: nn.Module
    plan: Plan
    before: Profile
    after: Profile
    skipped: list[tuple[str, str]]
    error: float | None
    groups: list[GroupSummary]
    inputs: Inputs
    refits: list[Refit] = dataclasses.field(default_factory=list)
    costs: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    latency: LatencyCheck | None = None
    config: Configured | None = None

    def compact(self, **options: Any) -> Result:
        """Remove what has become all-zero; see :func:`secateur.compact`, whose options it takes.

        Examples
        --------
        >>> import torch
        >>> from secateur import prune
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     net[2].weight[:, [1, 6]] = 1e-9
        >>> x, budget = torch.randn(3, 4), {"sparsity": 4 / 48}
        >>> result = prune(net, x, granularity="element", budget=budget)
        >>> result.compact().plan.removed["0.weight"]
        {0: [1, 6]}
        """
        from secateur.compact import compact

        return compact(self.model, self.inputs, **options)

    def __repr__(self) -> str:
        macs = self.after.macs / max(self.before.macs, 1)
        params = self.after.params / max(self.before.params, 1)
        error = "not verified" if self.error is None else f"error {self.error:.2g}"
        if self.plan.masks:
            zeros = 1 - self.after.nonzero / max(self.after.params, 1)
            return f"Result(sparsity {zeros:.3f} of all parameters, {error})"
        return f"Result(macs {macs:.3f}, params {params:.3f} of before, {error})"
