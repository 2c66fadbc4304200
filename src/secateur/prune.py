"""Prune a model: decide, try, cut, verify, or put everything back."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from secateur.allocation import Allocation
from secateur.choose import Chooser
from secateur.configs import Configured, configured
from secateur.criteria import Criterion
from secateur.decide import Decision, decide
from secateur.engines import Engine
from secateur.engines.fingerprint import fingerprint
from secateur.errors import InputError, ParityError
from secateur.granularity import Granularity
from secateur.graph.trace import Trace, record
from secateur.inputs import ExampleInputs, Inputs, as_inputs
from secateur.jointly import prune_depth
from secateur.latency import LatencyCheck, LatencyTable, check_latency
from secateur.layerwise import Refit
from secateur.observing import repeatable
from secateur.profiling.recorded import profile_recorded
from secateur.proof import Proof
from secateur.ranks import ALONE, found_ranks
from secateur.refit import refit
from secateur.request import SAME_CALL, Request, check_model, resolve, with_latency
from secateur.result import GroupSummary, Result
from secateur.rounding import RoundTo
from secateur.sparsify import sparsify
from secateur.sparsity.table import SparseGranularity
from secateur.surgery.apply import apply_plan, check_fits
from secateur.surgery.expected import ExpectedSizes
from secateur.surgery.obstacles import Amendments, fix_parting
from secateur.surgery.transaction import transaction

__all__ = ["prune", "prune_traced"]


def prune(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    granularity: str | Granularity | SparseGranularity = "channel",
    criterion: str | Criterion | Callable[..., Any] = "magnitude",
    allocation: str | Allocation = "global",
    budget: dict[str, float] | None = None,
    ignore: Sequence[str | nn.Module] = (),
    latency: LatencyTable | str | None = None,
    round_to: RoundTo = 1,
    min_keep: int = 1,
    data: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    engine: str | Engine | None = None,
    journal: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
    seed: int = 0,
    verify: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    ema: nn.Module | None = None,
    form: Literal["python", "graph"] = "python",
    prune_inputs: bool = False,
    prune_outputs: bool = False,
    base: Mapping[str, float] | None = None,
    accelerator: Any = None,
) -> Result:
    """Remove the least important units of a model, physically and exactly.

    Parameters
    ----------
    model : torch.nn.Module
        Any model, in any mode; changed in place. Its inputs and outputs keep their shapes.
    example_inputs : tensor, tuple or dict
        One batch that the model accepts: a tensor, positional or keyword inputs.
    granularity : str, default "channel"
        ``"channel"``: every coupled dimension; ``"filter"``: outputs of convolutions;
        ``"neuron"``: outputs of linear layers.
    criterion : str, Criterion or callable, default "magnitude"
        How units are scored; lowest go first. A callable takes ``[n, rest]`` and returns ``[n]``.
    allocation : str or Allocation, default "global"
        How the budget is spread over groups.
    budget : dict, default {"macs": 0.5}
        At most this fraction of the dense ``macs``, ``params``, ``bytes``, ``activations`` (peak
        bytes beside the weights in one forward pass), ``energy`` (an estimate) or ``latency`` (the
        sum over its operations; see ``latency=``) remains. Or
        ``{"accuracy_drop": 0.01}``: the smallest model, by MACs, for which `evaluate` lies at most
        so far below the dense model's; ``result.plan.settings["measured"]`` says what it found.
    ignore : sequence of str or Module
        Modules (names, fnmatch patterns or objects) whose outputs stay whole.
    latency : LatencyTable or str, optional
        For a budget of latency and for ``round_to="auto"``: a table that was measured, or the
        runtime to measure one in, default ``"torch"``; such tables are kept in the user's cache
        folder.
    round_to : int, "auto" or dict, default 1
        Sizes of pruned dimensions are multiples of it; with ``"auto"`` they are the sizes after
        which the latency climbs. A dict has a rule for every pattern of layer names,
        ``{"layer3.*": 16, "*": 8}``, of which the first that matches counts.
    min_keep : int, default 1
        Units that every group keeps at least; 0 lets a sparse granularity empty a weight.
    data, loss
        Batches and loss for criteria that look at data: any iterable. An iterator's batches are
        kept in a temporary file as they are read, for the criteria that read them again.
    evaluate : callable, optional
        ``evaluate(model) -> float``, higher is better, for allocations that try models out: it is
        called on pruned copies, and should use data that is neither trained nor tested on.
    engine : str or Engine, default "in_process"
        Where `evaluate` is called: ``"processes:4"``, ``"ray"`` or ``"ray://host:10001"`` try
        several copies out at once. The result is the same.
    journal : path-like, optional
        A file of what `evaluate` said, so that a search that was interrupted goes on from there.
    progress : callable, optional
        ``(done, total or None, what)``, after every batch that a criterion reads, every layer
        that it fits and every model that is tried out: of those that are tried out together, or
        of all so far where there is one at a time.
    seed : int, default 0
    verify : bool, default True
        Check that the smaller model equals the masked one; restore and raise if not.
    optimizer : torch.optim.Optimizer, optional
        Its state follows the surgery.
    ema : torch.nn.Module, optional
        An averaged copy of the model; cut alike.
    form : {"python", "graph"}, default "python"
        ``"graph"`` prunes the exported graph of a model whose Python code cannot follow, and
        returns a GraphModule as ``result.model``; the model itself is not changed.
    prune_inputs, prune_outputs : bool, default False
        Let go of features that the model is given (input channels of the first layer) or of
        ones that it returns (classes). ``result.plan.inputs`` and ``.outputs`` say which;
        ``result.plan.narrow_inputs(x)`` takes them out of a dense input.
    base : mapping, optional
        Costs that the budget's fractions refer to, default the model's own: pruning in steps
        counts from the model as it was first. ``result.costs`` has them.
    accelerator : accelerate.Accelerator, optional
        Every process makes the same call. Model, scores and plan have to be the same in all of
        them, bit for bit, which is checked before anything is changed.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        The model rejects the inputs, holds NaN, or lies on several devices; `evaluate` fails,
        or cannot be sent to the engine; the journal is of another model.
    NothingToPruneError
        No dimension can be pruned under these settings.
    BudgetError
        The budget is malformed or cannot be met; the message says how close it gets.
    EngineError
        The engine does not answer, or its workers die again and again.
    ParityError
        The smaller model differs from the masked one; the model was restored bit for bit.
    RankError
        Another process of `accelerator` failed.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> result = prune(net, torch.randn(2, 8), budget={"macs": 0.5})
    >>> net[0].out_features, result.after.macs <= 0.5 * result.before.macs
    (16, True)
    """
    if form not in ("python", "graph"):
        raise InputError(f"form must be 'python' or 'graph', not {form!r}")
    inputs = as_inputs(example_inputs)
    request = resolve(
        model,
        granularity=granularity,
        criterion=criterion,
        allocation=allocation,
        budget=budget,
        ignore=ignore,
        round_to=round_to,
        min_keep=min_keep,
        data=repeatable(data),
        loss=loss,
        seed=seed,
        prune_inputs=prune_inputs,
        prune_outputs=prune_outputs,
        base=base,
        evaluate=evaluate,
        engine=engine,
        journal=journal,
        progress=progress,
        ranks=ALONE if accelerator is None else found_ranks(accelerator),
    )
    with request.ranks.joined("pruning"):
        return _pruned(model, inputs, request, latency, form, verify, optimizer, ema)


def _pruned(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    latency: LatencyTable | str | None,
    form: str,
    verify: bool,
    optimizer: torch.optim.Optimizer | None,
    ema: nn.Module | None,
) -> Result:
    if request.ranks.size > 1:
        request.ranks.same("the model", fingerprint(model)[:16], SAME_CALL)
    nonzero = check_model(model)
    if isinstance(request.granularity, SparseGranularity):
        if form == "graph":
            raise InputError("form='graph' is for granularities that make the model smaller")
        granularity = request.granularity
        with_latency(request, model, inputs, latency)
        return sparsify(
            model, inputs, request, granularity, verify=verify, optimizer=optimizer, ema=ema
        )
    if request.granularity.layers:
        if form == "graph":
            raise InputError("form='graph' has no layers to leave out; prune them first")
        return prune_depth(
            model, inputs, request, prune_traced, verify=verify, optimizer=optimizer, ema=ema
        )
    if form == "graph":
        from secateur.surgery.graph_form import to_graph

        model = to_graph(model, inputs)
    request = with_latency(request, model, inputs, latency)
    return prune_traced(
        model, inputs, request, nonzero, verify=verify, optimizer=optimizer, ema=ema
    )


def prune_traced(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    nonzero: dict[str, int],
    *,
    verify: bool,
    optimizer: torch.optim.Optimizer | None = None,
    ema: nn.Module | None = None,
    choose: Chooser | None = None,
    proof: Proof | None = None,
) -> Result:
    """Prune on a resolved request, with non-zero entries counted; see :func:`prune`.

    Parameters
    ----------
    choose : callable, optional
        What goes; by scores and the request's budget if not given.
    proof : Proof, optional
        What the smaller model has to equal, default the masked one.
    """
    recorded = record(model, inputs)
    before = profile_recorded(model, recorded, nonzero)
    full = {name for name, p in model.named_parameters() if nonzero.get(name) == p.numel()}
    _check_optimizer(model, optimizer)
    proof = (proof or Proof([inputs])) if verify else None
    dense = copy.deepcopy(model) if request.limits_latency else None
    decision, error, refits, config = _cut(
        model, inputs, recorded, request, choose, proof, optimizer, ema
    )
    plan, graph = decision.plan, decision.graph
    # What had no zeros has none now, unless a new scale made some of its entries too small.
    full -= {entry.name for entry in plan.rescaled}
    left = {name: p.numel() for name, p in model.named_parameters() if name in full}
    after = profile_recorded(model, _after_trace(decision, model, inputs), left)
    groups = [
        GroupSummary(
            group.name,
            tuple((member.name, member.dim) for member in group.members),
            size,
            size - gone,
        )
        for group, (gone, size) in zip(graph.groups, decision.selection.counts, strict=True)
    ]
    narrowed = plan.narrow_inputs(inputs)
    skipped = _skipped(decision)
    costs = decision.selection.costs
    checked = None
    if dense is not None:
        checked = _timed(request, (dense, inputs), (model, narrowed), costs["latency"])
    return Result(
        model, plan, before, after, skipped, error, groups, narrowed, refits, costs, checked, config
    )


def _timed(
    request: Request,
    dense: tuple[nn.Module, Inputs],
    pruned: tuple[nn.Module, Inputs],
    costs: tuple[float, float],
) -> LatencyCheck:
    """What the table foretold, and what both models take in the runtime of the table."""
    table, predicted = request.latency, costs[1] / max(costs[0], 1e-300)
    assert table is not None
    runtime = table.runtime()
    if runtime is None:
        return LatencyCheck(table.conditions.runtime, predicted)
    return check_latency(runtime, dense, pruned, predicted)


def _cut(
    model: nn.Module,
    inputs: Inputs,
    recorded: Trace,
    request: Request,
    choose: Chooser | None,
    proof: Proof | None,
    optimizer: torch.optim.Optimizer | None,
    ema: nn.Module | None,
) -> tuple[Decision, float | None, list[Refit], Configured | None]:
    """Decide and carry out; decide anew where the code proves to take another way."""
    known = Amendments()
    while True:
        decision = decide(model, inputs, recorded, request, known, choose)
        request.agreed(decision.plan)
        if ema is not None:
            check_fits(decision.plan, ema)
        try:
            with transaction(model) as snapshot:
                error = None if proof is None else proof.error(model, decision, snapshot)
                refitted = refit(model, inputs, decision.plan, request)
                config = configured(decision.plan, model, inputs)
                apply_plan(decision.plan, model, optimizer, ema)
                refitted.write(model)
                return decision, error, refitted.refits, config
        except ParityError:
            sizes = ExpectedSizes(decision.graph, decision.selection.removed)
            parted = decision.attempt.parted
            if parted is None or not fix_parting(known, decision.graph, sizes, parted):
                raise


def _check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    if optimizer is None:
        return
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "optimizer= holds none of the model's parameters, so its state cannot follow; "
            "pass the optimizer that trains this model"
        )


def _after_trace(decision: Decision, model: nn.Module, inputs: Inputs) -> Trace:
    """What runs now: the trial run's record, for it ran on these very shapes."""
    recorded = decision.attempt.trace
    if recorded is not None:
        return recorded
    return record(model, decision.plan.narrow_inputs(inputs))


def _skipped(decision: Decision) -> list[tuple[str, str]]:
    listed = dict(decision.graph.protected)
    for name, reason in decision.skipped:
        listed.setdefault(name, reason)
    return list(listed.items())
