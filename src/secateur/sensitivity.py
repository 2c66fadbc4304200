"""How much each part of a model costs in quality when it alone is pruned."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from secateur.allocation import (
    Amounts,
    Problem,
    Sensitivity,
    SensitivityScan,
    checked_ratios,
    scan,
)
from secateur.candidates import steady
from secateur.choose import ByBudget, Planner, Values
from secateur.criteria import Criterion
from secateur.decide import decide
from secateur.engines import Engine
from secateur.errors import InputError
from secateur.granularity import Granularity
from secateur.graph.graph import Graph
from secateur.graph.trace import record
from secateur.inputs import ExampleInputs, Inputs, as_inputs
from secateur.observing import repeatable
from secateur.plan import Plan
from secateur.progress import Tick
from secateur.request import Request, check_model, resolve
from secateur.scan import (
    Evaluation,
    FromTheMiddle,
    Judge,
    JudgedCopy,
    Ledger,
    Opaque,
    Pace,
    Trials,
    fingerprint,
    masking,
    removal,
    scan_weights,
)
from secateur.sparsify import masks_on, weights_for
from secateur.sparsity.table import SparseGranularity

__all__ = ["Sensitivity", "sensitivity"]

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def sensitivity(
    model: nn.Module,
    example_inputs: ExampleInputs,
    evaluate: Callable[[nn.Module], float],
    *,
    granularity: str | Granularity | SparseGranularity = "channel",
    criterion: str | Criterion | Callable[..., Any] = "magnitude",
    ratios: Sequence[float] = RATIOS,
    ignore: Sequence[str | nn.Module] = (),
    min_keep: int = 1,
    data: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    seed: int = 0,
    engine: str | Engine = "in_process",
    cache: str | os.PathLike[str] | None = None,
    progress: Tick | None = None,
) -> Sensitivity:
    """Measure how much worse the model is when one group alone loses a share of its units.

    Every coupled group in turn, or every weight for sparse granularities, loses its units of
    lowest score, at several shares, on a copy that is really smaller (or really has the zeros);
    `evaluate` says how good each copy is. Han et al. 2015 (arXiv:1506.02626) choose the amount of
    every layer by such curves, as ``allocation="sensitivity"`` does.

    Parameters
    ----------
    model : torch.nn.Module
        Neither run nor changed; copies of it are.
    example_inputs : tensor, tuple or dict
        One batch that the model accepts.
    evaluate : callable
        ``evaluate(model) -> float``, higher is better, the same every time that it is asked. Use
        data that is neither trained nor tested on.
    granularity : str, default "channel"
        As for :func:`secateur.prune`, structured or sparse.
    criterion : str, Criterion or callable, default "magnitude"
        Which units go first.
    ratios : sequence of float, default 0.1 to 0.9
        Shares of a group that go, each between 0 and 1.
    ignore : sequence of str or Module
        Modules (names, fnmatch patterns or objects) whose outputs stay whole.
    min_keep : int, default 1
        Units that every group keeps at least.
    data, loss
        Batches and loss for criteria that need them.
    seed : int, default 0
        Of everything random, `evaluate` included.
    engine : str or Engine, default "in_process"
        Where `evaluate` is called: ``"processes:4"``, ``"ray"`` or ``"ray://host:10001"`` try
        several copies out at once. The result is the same.
    cache : path-like, optional
        File in which every value is kept as soon as it is known: a scan that was stopped goes on
        where it was, and one with more shares or by another criterion measures only what is new.
    progress : callable, optional
        Called as ``progress(done, total, text)`` after every copy; the text says what was tried
        and how much time is left.

    Returns
    -------
    Sensitivity

    Raises
    ------
    InputError
        When `evaluate` fails, returns no finite number or not the same one twice; for shares that
        do not lie between 0 and 1; when the cache is of another model, seed or `evaluate`; when
        `evaluate` cannot be sent to the workers of an engine.
    EngineError
        When workers die again and again, or none answers.
    NothingToPruneError
        No dimension can be pruned under these settings.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> x = torch.randn(64, 8)
    >>> dense = net(x).detach()
    >>> def evaluate(model):
    ...     return -(model(x) - dense).abs().mean().item()
    >>> table = sensitivity(net, x[:1], evaluate, ratios=(0.25, 0.5, 0.75))
    >>> table["0.weight"].amounts, table["0.weight"].drops[0] > 0
    ((8, 16, 24), True)
    """
    shares = checked_ratios(ratios)
    if not callable(evaluate):
        raise InputError(
            "evaluate must be a function from a model to a number, higher is better, not "
            f"{type(evaluate).__name__}"
        )
    inputs = as_inputs(example_inputs)
    request = resolve(
        model,
        granularity=granularity,
        criterion=criterion,
        allocation="uniform",
        budget=None,
        ignore=ignore,
        round_to=1,
        min_keep=min_keep,
        data=repeatable(data),
        loss=loss,
        seed=seed,
        prune_inputs=False,
        prune_outputs=False,
        engine=engine,
        evaluate=evaluate,
    )
    check_model(model)
    baseline = steady(evaluate, copy.deepcopy(model).eval(), seed)
    ledger = Ledger(cache, fingerprint(model), seed, baseline)
    judge: Judge = Opaque(evaluate, seed)
    if isinstance(evaluate, Evaluation):
        judge = FromTheMiddle(copy.deepcopy(model).eval(), evaluate, seed)
    assert request.engine is not None
    trials = Trials(JudgedCopy(model, judge), ledger, request.engine)
    if isinstance(request.granularity, SparseGranularity):
        weights, _ = weights_for(model, request, request.granularity)
        pace = Pace(progress)

        def each(plans: Sequence[Plan]) -> Iterator[tuple[int, float]]:
            pace.restart()
            keyed = [
                (masking(name, mask), lambda plan=plan: plan)
                for plan in plans
                for name, mask in plan.masks.items()
            ]
            # The first plan masks nothing.
            yield 0, baseline
            for at, value in trials.each(keyed, pace.known):
                yield at + 1, value

        return scan_weights(
            model,
            inputs,
            request,
            request.granularity,
            weights,
            masks_on(model, weights),
            shares,
            each,
            pace,
        )
    chooser = _Scanning(model, inputs, request, shares, trials, baseline, progress)
    decide(model, inputs, record(model, inputs), chooser.request, choose=chooser)
    assert chooser.table is not None
    return chooser.table


class _Scanning(ByBudget):
    """Chooses nothing, and notes what every group would cost."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        request: Request,
        ratios: tuple[float, ...],
        trials: Trials,
        baseline: float,
        progress: Tick | None,
    ) -> None:
        # Under no budget at all the allocation is asked, and need take nothing away.
        super().__init__(
            model, inputs, dataclasses.replace(request, budget={}, allocation=_Noting(self))
        )
        self.ratios, self.baseline = ratios, baseline
        self.settings = request.granularity.name, request.criterion.spec
        self.table: Sensitivity | None = None
        self._trials = trials
        self.pace = Pace(progress)

    def trials(self, graph: Graph, planner: Planner) -> Values:
        self.pace.restart()

        def values(listed: Sequence[np.ndarray]) -> Iterator[tuple[int, float]]:
            some = [at for at, removed in enumerate(listed) if removed.any()]
            yield from ((at, self.baseline) for at in set(range(len(listed))) - set(some))
            keyed = [
                (removal(graph, listed[at]), functools.partial(planner, listed[at])) for at in some
            ]
            for index, value in self._trials.each(keyed, self.pace.known):
                yield some[index], value

        return values


class _Noting(SensitivityScan):
    """Hands the table of a scan to its chooser instead of acting on it."""

    def __init__(self, chooser: _Scanning) -> None:
        super().__init__()
        self._chooser = chooser

    def amounts(self, problem: Problem) -> Amounts:
        to = self._chooser
        to.table = scan(problem, to.ratios, self.name, to.pace, to.settings)
        return problem.none
