"""Prune whole layers: choose blocks, leave them out, prove that nothing else changed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from secateur.configs import Configured, configured
from secateur.depth import DepthCriterion, Passing
from secateur.depth.proof import passing_error, tolerance_of
from secateur.errors import BudgetError, InputError, NothingToPruneError, ParityError
from secateur.graph.blocks import Block, blocks
from secateur.graph.graph import Graph
from secateur.graph.trace import Trace, named_state, record
from secateur.inputs import Inputs
from secateur.observing.reading import Reading
from secateur.plan import Plan
from secateur.profiling import Profile
from secateur.profiling.recorded import profile_recorded
from secateur.request import Request
from secateur.result import GroupSummary, Result
from secateur.surgery.apply import apply_plan
from secateur.surgery.dropping import drop
from secateur.surgery.transaction import Snapshot, transaction
from secateur.whole_heads import whole_heads

__all__ = ["prune_layers"]

MEASURES = ("macs", "params", "bytes")


def prune_layers(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    *,
    verify: bool,
    least: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    ema: nn.Module | None = None,
) -> Result:
    """Leave out blocks until a budget is met, on a resolved request; see :func:`secateur.prune`.

    Parameters
    ----------
    least : bool, default True
        Whether the budget is to be met; else it is not to be passed by more than one block.

    Raises
    ------
    NothingToPruneError
        When the model has no repeated block.
    BudgetError
        When leaving out all that may go is not enough, or the budget is of another kind.
    ParityError
        When the model without a block differs from one in which what it is given goes on.
    """
    criterion = request.depth
    assert criterion is not None
    _check_measures(request.budget)
    recorded = record(model, inputs)
    before = profile_recorded(model, recorded)
    found = [block for block in blocks(model, recorded) if not _ignored(model, request, block)]
    skipped: list[tuple[str, str]] = []
    while True:
        task = _Task(model, inputs, request, criterion, recorded, before, found)
        chosen = task.chosen(least)
        plan = _plan(model, request, chosen)
        request.agreed(plan)
        error = passing_error(model, inputs, plan) if verify else None
        culprits = [] if error is None or error[1] <= tolerance_of(model) else _culprits(
            model, inputs, request, chosen
        )  # fmt: skip
        if not culprits:
            break
        skipped += [(block.path, "what runs after it differs without it") for block in culprits]
        found = [block for block in found if block not in culprits]
    if error is not None and error[1] > tolerance_of(model):
        raise ParityError(
            f"the model without {', '.join(plan.dropped)} differs from the one in which their "
            f"input goes on by {error[1]:.3g} of the largest output; nothing was changed"
        )
    config: Configured | None = configured(plan, model, inputs)
    stacks = Counter(_place(block) for block in task.blocks)
    gone = Counter(_place(block) for block in chosen)
    with transaction(model):
        apply_plan(plan, model, optimizer, ema)
        after = profile_recorded(model, record(model, inputs))
    groups = [GroupSummary(name, (), size, size - gone[name]) for name, size in stacks.items()]
    costs = {
        measure: (float(getattr(before, measure)), float(getattr(after, measure)))
        for measure in MEASURES
    }
    return Result(
        model, plan, before, after, skipped, None if error is None else error[0], groups, inputs,
        costs=costs, config=config,
    )  # fmt: skip


@dataclasses.dataclass
class _Task:
    """Blocks, what each is worth and what each costs."""

    model: nn.Module
    inputs: Inputs
    request: Request
    criterion: DepthCriterion
    recorded: Trace
    before: Profile
    blocks: Sequence[Block]

    def chosen(self, least: bool) -> list[Block]:
        """The blocks that go, in the order in which they run."""
        if not self.blocks:
            raise NothingToPruneError(
                "the model has no layer to leave out: no repeated module returns what it is given "
                "plus what it computes of it"
            )
        saved = self._saved()
        sizes = Counter(block.stack for block in self.blocks)
        spare = {stack: size - self.request.min_keep for stack, size in sizes.items()}
        if max(spare.values()) < 1:
            raise NothingToPruneError(
                f"every stack of layers keeps all of them under min_keep={self.request.min_keep}"
            )
        orders = self._orders(spare)
        met = [order for order in orders if self._met(order, saved)]
        if not met and least:
            best = min(orders, key=lambda order: self._left(order, saved))
            raise BudgetError(self._too_tight(best, saved))
        if not least:
            # As deep as the share goes, and one layer at least.
            within = [order for order in orders if not self._met(order[:-1], saved)]
            met = [max(within or orders[:1], key=len)]
        shortest = min(len(order) for order in met)
        order = next(order for order in met if len(order) == shortest)
        if least and not self.criterion.contiguous:
            order = self._without_idle(order, saved)
        picked = set(order)
        return [block for index, block in enumerate(self.blocks) if index in picked]

    def _without_idle(self, order: list[int], saved: dict[int, dict[str, float]]) -> list[int]:
        """Give back blocks, best first, that the budget does not need: others saved more."""
        for index in order[::-1]:
            fewer = [other for other in order if other != index]
            if fewer and self._met(fewer, saved):
                order = fewer
        return order

    def _orders(self, spare: dict[str, int]) -> list[list[int]]:
        """Sets of blocks that may go, best first among those of one size."""
        reading = Reading(
            self.model,
            () if self.request.data is None else self.request.data,
            self.inputs,
            self.request.loss,
            None,
            self.request.seed,
            self.request.told("scoring"),
        )
        if self.criterion.needs_data and self.request.data is None:
            raise InputError(
                f"criterion {self.criterion.name!r} runs the model on data: pass data=, an "
                "iterable of (inputs, targets) batches, or of dicts for models that return a loss"
            )
        choice = whole_heads(self.model, self.recorded, self.request.ignore)
        graph = Graph(self.model, self.recorded, split_choice=choice)
        passing = Passing(self.model, graph, self.blocks, reading)
        if self.criterion.contiguous:
            return self._runs(self.criterion.run_scores(passing), spare)
        scores = self.criterion.scores(passing)
        order: list[int] = []
        for index in np.argsort(scores, kind="stable").tolist():
            stack = self.blocks[index].stack
            gone = sum(self.blocks[other].stack == stack for other in order)
            if np.isfinite(scores[index]) and gone < spare[stack]:
                order.append(index)
        if not order:
            raise NothingToPruneError(f"criterion {self.criterion.name!r} lets no layer go")
        return [order[: count + 1] for count in range(len(order))]

    def _runs(self, scores: dict[tuple[int, int], float], spare: dict[str, int]) -> list[list[int]]:
        stacks: dict[str, list[int]] = {}
        for index, block in enumerate(self.blocks):
            stacks.setdefault(block.stack, []).append(index)
        found = []
        for (first, count), score in scores.items():
            stack = self.blocks[first].stack
            at = stacks[stack].index(first)
            if count <= spare[stack]:
                found.append((count, score, stacks[stack][at : at + count]))
        return [run for _, _, run in sorted(found)]

    def _saved(self) -> dict[int, dict[str, float]]:
        """What leaving out each block saves; one of every stack is tried."""
        known: dict[str, dict[str, float]] = {}
        for block in self.blocks:
            if block.stack not in known:
                snapshot = Snapshot(self.model)
                try:
                    drop(self.model, [block.path])
                    left = profile_recorded(self.model, record(self.model, self.inputs))
                finally:
                    snapshot.restore()
                known[block.stack] = {
                    measure: getattr(self.before, measure) - getattr(left, measure)
                    for measure in MEASURES
                }
        return {index: known[block.stack] for index, block in enumerate(self.blocks)}

    def _base(self, measure: str) -> float:
        base = self.request.base or {}
        return float(base.get(measure, getattr(self.before, measure)))

    def _left(self, order: Sequence[int], saved: dict[int, dict[str, float]]) -> float:
        """The largest excess over the budget, as a share of the dense cost."""
        return max(
            (getattr(self.before, measure) - sum(saved[index][measure] for index in order))
            / max(self._base(measure), 1)
            - fraction
            for measure, fraction in self.request.budget.items()
        )

    def _met(self, order: Sequence[int], saved: dict[int, dict[str, float]]) -> bool:
        return self._left(order, saved) <= 1e-9

    def _too_tight(self, order: Sequence[int], saved: dict[int, dict[str, float]]) -> str:
        asked = ", ".join(f"{key}={value:g}" for key, value in self.request.budget.items())
        reached = ", ".join(
            f"{measure}="
            f"{(getattr(self.before, measure) - sum(saved[i][measure] for i in order)) / max(self._base(measure), 1):.3f}"  # noqa: E501
            for measure in self.request.budget
        )
        return (
            f"the budget {asked} cannot be met by leaving out layers: without {len(order)} of "
            f"{len(self.blocks)} it is {reached}, and every stack keeps "
            f"min_keep={self.request.min_keep}; take another granularity along, as 'ffn,layer'"
        )


def _check_measures(budget: dict[str, float]) -> None:
    other = [key for key in budget if key not in MEASURES]
    if other:
        raise BudgetError(
            f"granularity 'layer' takes a budget of {', '.join(MEASURES)}, not of {other[0]}"
        )


def _ignored(model: nn.Module, request: Request, block: Block) -> bool:
    names = (name for name, _ in model.get_submodule(block.path).named_parameters())
    return any(f"{block.path}.{name}" in request.ignore for name in names)


def _place(block: Block) -> str:
    return block.stack.partition("|")[0] or block.path


def _plan(model: nn.Module, request: Request, chosen: Sequence[Block]) -> Plan:
    plan = Plan(dropped=[block.path for block in chosen], settings=dict(request.settings))
    for name, tensor in named_state(model).items():
        if any(name.startswith(f"{path}.") for path in plan.dropped):
            plan.shapes[name] = list(tensor.shape)
    return plan


def _culprits(
    model: nn.Module, inputs: Inputs, request: Request, chosen: Sequence[Block]
) -> list[Block]:
    """Blocks without which, one by one, the model computes something else."""
    tolerance = tolerance_of(model)
    return [
        block
        for block in chosen
        if passing_error(model, inputs, _plan(model, request, [block]))[1] > tolerance
    ]
