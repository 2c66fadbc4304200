"""What a task hands over to be kept."""

from __future__ import annotations

import dataclasses
from typing import Any

from secateur.plan import Plan

__all__ = ["Outcome"]


@dataclasses.dataclass
class Outcome:
    """What one task did.

    Attributes
    ----------
    label : str
        For people: ``pruned to 50 % of the MACs``.
    changed : bool
        Whether the model is another one now.
    plans : list of Plan
    metrics : list of dict
        Lines for ``metrics.jsonl``.
    notes : dict
        What the report shows of it, in JSON values.
    """

    label: str
    changed: bool = True
    plans: list[Plan] = dataclasses.field(default_factory=list)
    metrics: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
