"""What the user asked for: checked, and resolved to objects."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from secateur.allocation import Allocation, as_allocation
from secateur.budget import check_budget
from secateur.criteria import Criterion, as_criterion
from secateur.depth import DepthCriterion, Summed, as_depth
from secateur.engines import Engine, as_engine
from secateur.errors import InputError
from secateur.granularity import GRANULARITIES, Granularity, together
from secateur.ignored import ignored_tensors
from secateur.inputs import Inputs
from secateur.latency import LatencyTable, as_runtime
from secateur.plan import Plan
from secateur.profiling.census import census
from secateur.ranks import ALONE, Ranks
from secateur.rounding import Rounding, RoundTo, as_rounding
from secateur.sparsity.table import SparseGranularity, as_sparse

__all__ = ["SAME_CALL", "TRYING", "Request", "check_model", "resolve", "with_latency"]

TRYING = "trying models out"
"""What a search is at, for `Request.told`."""
SAME_CALL = "prune the same model with the same data and seed in every process"


@dataclasses.dataclass
class Request:
    """What the user asked for, resolved."""

    granularity: Granularity | SparseGranularity
    criterion: Criterion
    allocation: Allocation
    budget: dict[str, float]
    ignore: dict[str, str]
    rounding: Rounding
    min_keep: int
    data: Iterable[Any] | None
    loss: Callable[..., Any] | None
    seed: int
    settings: dict[str, Any]
    base: Mapping[str, float] | None = None
    prune_inputs: bool = False
    prune_outputs: bool = False
    evaluate: Callable[[nn.Module], float] | None = None
    latency: LatencyTable | None = None
    engine: Engine | None = None
    journal: str | os.PathLike[str] | None = None
    progress: Callable[[int, int | None, str], None] | None = None
    ranks: Ranks = ALONE
    depth: DepthCriterion | None = None

    def agreed(self, plan: Plan) -> Plan:
        """The plan, which every process has to have come to.

        Raises
        ------
        InputError
            In every process, where one has another.
        """
        if self.ranks.size > 1:
            digest = hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]
            self.ranks.same("the plan", digest, SAME_CALL)
        return plan

    def told(self, what: str) -> Callable[[int, int | None], None] | None:
        """What to call with how far something is, and how far it goes; None for nobody."""
        progress = self.progress
        if progress is None:
            return None
        return lambda done, total: progress(done, total, what)

    def told_of(self, doing: str) -> Callable[[int, int | None, str], None] | None:
        """As `told`, to be called with what it is done to as well."""
        progress = self.progress
        if progress is None:
            return None
        return lambda done, total, text: progress(done, total, f"{doing} {text}")

    @property
    def limited(self) -> dict[str, float]:
        """Costs that count: those of the budget, or MACs where it is a drop in accuracy."""
        return {"macs": 1.0} if "accuracy_drop" in self.budget else self.budget

    @property
    def limits_latency(self) -> bool:
        """Whether the budget has one of latency."""
        return "latency" in self.budget


def resolve(
    model: nn.Module,
    *,
    granularity: str | Granularity | SparseGranularity,
    criterion: Any,
    allocation: str | Allocation,
    budget: dict[str, float] | None,
    ignore: Sequence[str | nn.Module],
    round_to: RoundTo,
    min_keep: int,
    seed: int,
    prune_inputs: bool,
    prune_outputs: bool,
    engine: str | Engine | None = None,
    **given: Any,
) -> Request:
    """Check the arguments of :func:`secateur.prune`, and look up what they name.

    Raises
    ------
    InputError, UnknownNameError, BudgetError
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    row = as_granularity(granularity)
    # A weight may be all zeros; a dimension without a unit is no model.
    floor = 0 if isinstance(row, SparseGranularity) else 1
    if isinstance(min_keep, bool) or not isinstance(min_keep, int) or min_keep < floor:
        raise InputError(f"min_keep must be an integer of at least {floor}, not {min_keep!r}")
    rounding = as_rounding(round_to, model)
    depth = as_depth(criterion) if isinstance(row, Granularity) and row.layers else None
    if depth is not None and not isinstance(depth, Summed):
        if isinstance(row, Granularity) and row.roles:
            raise InputError(
                f"criterion {depth.name!r} judges whole layers; prune with granularity='layer' "
                "first, and the rest in a second call"
            )
        # Nothing else is asked for a score.
        scorer = as_criterion("magnitude")
    else:
        scorer = as_criterion(criterion)
    allocator = as_allocation(allocation)
    checked = as_budget(row, budget)
    ignored = ignored_tensors(model, ignore)
    plain: dict[str, Any] = {
        "min_keep": min_keep,
        "seed": seed,
        "prune_inputs": prune_inputs,
        "prune_outputs": prune_outputs,
    }
    settings = {
        "granularity": row.name,
        "criterion": scorer.spec if depth is None else depth.spec,
        "allocation": allocator.spec,
        "budget": checked,
        "ignore": sorted({name.rpartition(".")[0] for name in ignored}),
        "round_to": rounding.spec,
        **plain,
    }
    return Request(
        granularity=row,
        criterion=scorer,
        allocation=allocator,
        budget=checked,
        ignore=ignored,
        rounding=rounding,
        settings=settings,
        depth=depth,
        engine=as_engine(engine),
        **plain,
        **given,
    )


def with_latency(
    request: Request, model: nn.Module, inputs: Inputs, latency: LatencyTable | str | None
) -> Request:
    """The request with a table of latencies, where its budget or its sizes go by one.

    Raises
    ------
    InputError
        When something is given as a table that is none, or sparse granularities get one.
    UnknownNameError
        For an unknown runtime.
    """
    if latency is not None and not isinstance(latency, LatencyTable):
        if not isinstance(latency, str):
            raise InputError(
                "latency must be a LatencyTable or the name of a runtime, not "
                f"{type(latency).__name__}"
            )
        as_runtime(latency)
    automatic = request.rounding.automatic
    if isinstance(request.granularity, SparseGranularity):
        if latency is not None or automatic:
            raise InputError(
                "zeros leave every size as it is, so a sparse granularity takes neither latency= "
                "nor round_to='auto'"
            )
        return request
    if not (request.limits_latency or automatic):
        if latency is not None:
            raise InputError(
                'latency= is for a budget such as {"latency": 0.6}, or for round_to="auto"'
            )
        return request
    if not isinstance(latency, LatencyTable):
        latency = LatencyTable.measure(
            model, inputs, latency or "torch", cache=True, tick=request.told_of("timing")
        )
    return dataclasses.replace(request, latency=latency)


def as_granularity(
    granularity: str | Granularity | SparseGranularity,
) -> Granularity | SparseGranularity:
    """The granularity meant by a name, with sizes if need be, or an object.

    Raises
    ------
    UnknownNameError
        For an unknown name; the message suggests the nearest.

    Examples
    --------
    >>> as_granularity("filter").structured, as_granularity("block:8x8").sizes
    (True, (8, 8))
    >>> as_granularity("2:4").name
    '2:4'
    """
    if not isinstance(granularity, str):
        return granularity
    if granularity in GRANULARITIES:
        return GRANULARITIES[granularity]
    names = [name.strip() for name in granularity.split(",")]
    if len(names) > 1 and any(name in GRANULARITIES for name in names):
        return together(names)
    return as_sparse(granularity, GRANULARITIES)


def as_budget(row: Granularity | SparseGranularity, budget: object) -> dict[str, float]:
    """The budget as given, checked against what the granularity takes.

    Raises
    ------
    BudgetError
    """
    return row.budget(budget) if isinstance(row, SparseGranularity) else check_budget(budget)


def check_model(model: nn.Module) -> dict[str, int]:
    """Whether the model can be pruned at all; how many entries of each parameter are not zero."""
    devices = {tensor.device for tensor in model.parameters()}
    if len(devices) > 1:
        listed = ", ".join(sorted(map(str, devices)))
        raise InputError(
            f"the model's parameters lie on several devices ({listed}); move it to one first"
        )
    nonzero = {}
    for name, tensor in model.named_parameters():
        if nn.parameter.is_lazy(tensor):
            raise InputError(
                f"parameter {name!r} is not initialised yet; run the model once on real inputs"
            )
        nonzero[name], finite = census(tensor)
        if not finite:
            raise InputError(f"{name!r} contains NaN or infinity; repair the model first")
    return nonzero
