"""Remove what does nothing: what a sparse granularity, or training, has made all-zero."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from secateur.allocation import as_allocation
from secateur.choose import Choice, Planner
from secateur.costs import CostModel
from secateur.criteria import Scores
from secateur.errors import InputError, NothingToPruneError
from secateur.graph.coupling import Group
from secateur.graph.graph import Graph
from secateur.idle import Idle, find_idle
from secateur.idle.evidence import noise_like
from secateur.inputs import ExampleInputs, Inputs, as_inputs, evaluating, run
from secateur.proof import Proof
from secateur.prune import prune_traced
from secateur.request import Request, check_model, resolve
from secateur.result import Result
from secateur.rounding import RoundTo
from secateur.selection import Selection, select

__all__ = ["compact"]


def compact(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    ignore: Sequence[str | nn.Module] = (),
    round_to: RoundTo = 1,
    min_keep: int = 1,
    verify: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    ema: nn.Module | None = None,
) -> Result:
    """Remove the units that change no output, physically: the model computes what it did before.

    A unit (a channel, a neuron, with all that is coupled to it) goes where nothing reads it, since
    every weight that would multiply it is zero or belongs to a unit that goes as well; or where it
    is zero for every input, since its filter is, and bias, norm and activation leave it zero. Both
    follow from the weights, not from the examples: a ReLU that no example opens stays.

    What is a constant other than zero stays (behind a sigmoid, or a norm's shift), and so does
    what an operation mixes with its neighbours, such as the features of a layer norm.

    Parameters
    ----------
    model : torch.nn.Module
        Masked or not, in any mode; changed in place. Masks are cut along.
    example_inputs : tensor, tuple or dict
        One batch that the model accepts.
    ignore : sequence of str or Module
        Modules (names, fnmatch patterns or objects) whose outputs stay whole.
    round_to : int or dict, default 1
        Sizes of cut dimensions are multiples of it, or of what a rule for their layers says, as
        for :func:`secateur.prune`; a few units that do nothing then stay.
    min_keep : int, default 1
        Units that every group keeps at least.
    verify : bool, default True
        Check that outputs are as before on the example inputs, and on noise of their shapes where
        the model runs on it; restore and raise if not.
    optimizer : torch.optim.Optimizer, optional
        Its state follows.
    ema : torch.nn.Module, optional
        An averaged copy of the model; cut alike. Its weights should be masked alike.

    Returns
    -------
    Result
        ``skipped`` names the groups that keep all-zero units, and why.

    Raises
    ------
    NothingToPruneError
        Nothing can go; says how many all-zero units there are, and what holds them.
    InputError
        The model rejects the inputs, or an option is out of range.
    ParityError
        Outputs would change; the model was restored bit for bit.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     net[2].weight[:, [1, 6]] = 0
    >>> result = compact(net, torch.randn(3, 4))
    >>> net[0], result.plan.removed["0.weight"]
    (Linear(in_features=4, out_features=6, bias=True), {0: [1, 6]})
    """
    inputs = as_inputs(example_inputs)
    request = resolve(
        model,
        granularity="channel",
        criterion="magnitude",
        allocation="global",
        budget=None,
        ignore=ignore,
        round_to=round_to,
        min_keep=min_keep,
        seed=0,
        prune_inputs=False,
        prune_outputs=False,
        data=None,
        loss=None,
    )
    if request.rounding.automatic:
        raise InputError("round_to='auto' goes by latency, which compact does not know; name sizes")
    settings = {key: request.settings[key] for key in ("ignore", "round_to", "min_keep")}
    request = dataclasses.replace(request, settings={"compact": True, **settings})
    nonzero = check_model(model)
    return prune_traced(
        model,
        inputs,
        request,
        nonzero,
        verify=verify,
        optimizer=optimizer,
        ema=ema,
        choose=_AllIdle(model, inputs, request),
        proof=Proof([inputs, *_probes(model, inputs)], masked=False) if verify else None,
    )


def _probes(model: nn.Module, inputs: Inputs) -> list[Inputs]:
    """Noise of the inputs' shapes, if the model runs on it."""
    generator = torch.Generator().manual_seed(0)
    probe = inputs.replaced(lambda name, tensor: noise_like(tensor, generator))
    try:
        with evaluating(model):
            run(model, probe.fresh())
    except InputError:
        return []
    return [probe]


class _AllIdle:
    """Chooses every unit that does nothing, as far as sizes allow."""

    def __init__(self, model: nn.Module, inputs: Inputs, request: Request) -> None:
        self.model = model
        self.inputs = inputs
        self.request = request

    def __call__(self, graph: Graph, planner: Planner) -> Choice:
        idle = find_idle(self.model, self.inputs, graph)
        candidates = np.zeros(graph.n_classes, dtype=bool)
        for group in graph.groups:
            candidates[group.classes] = True
        while True:
            dead = idle.among(candidates)
            selection = self._select(graph, dead)
            if selection is None or _closed(idle, selection.removed):
                break
            # What has to stay, for a size, lives, and so does what it reads: from the last
            # group on, for others read what those before them make.
            for group in reversed(graph.groups):
                stays = group.classes[(dead & ~selection.removed)[group.classes]]
                if len(stays):
                    candidates[stays] = False
                    break
        skipped = _left(graph, idle, dead, selection, self.request)
        if selection is None or not selection.removed.any():
            raise NothingToPruneError(_nothing(graph, idle, skipped))
        return Choice(selection, [(group.name, why) for group, _, why in skipped])

    def _select(self, graph: Graph, dead: np.ndarray) -> Selection | None:
        """Every dead unit, of every group the number that its sizes allow."""
        if not dead.any():
            return None
        scores = Scores(np.where(dead, 0.0, 1.0), dead)
        try:
            return select(
                graph,
                CostModel(graph, self.model),
                scores,
                as_allocation("global"),
                None,
                base={},
                min_keep=self.request.min_keep,
                rounding=self.request.rounding,
            )
        except NothingToPruneError:
            return None


def _closed(idle: Idle, removed: np.ndarray) -> bool:
    """Whether nothing that stays reads what goes."""
    return not (removed & ~idle.among(removed)).any()


def _left(
    graph: Graph, idle: Idle, dead: np.ndarray, selection: Selection | None, request: Request
) -> list[tuple[Group, int, str]]:
    """Groups that keep all-zero units: how many, and what holds them."""
    gone = np.zeros(graph.n_classes, dtype=bool) if selection is None else selection.removed
    listed = []
    for group in graph.groups:
        kept = [label for label in group.classes.tolist() if idle.empty[label] and not gone[label]]
        if kept:
            reasons = Counter(_reason(label, idle, dead, request) for label in kept)
            why = "; ".join(f"{count} all-zero: {reason}" for reason, count in reasons.items())
            listed.append((group, len(kept), why))
    return listed


def _reason(label: int, idle: Idle, dead: np.ndarray, request: Request) -> str:
    if label in idle.mixed:
        return f"{idle.mixed[label]} mixes it with others, and a zero counts there"
    if dead[label]:
        return (
            f"sizes must keep it (min_keep={request.min_keep}, {request.rounding.text}, or "
            "others that must lose equally many)"
        )
    return "something else of it is not zero, and is read"


def _nothing(graph: Graph, idle: Idle, skipped: list[tuple[Group, int, str]]) -> str:
    count = int(idle.empty.sum())
    if not count:
        return "nothing can be removed without a change: no unit of the model is all-zero"
    held = [f"{group.name}: {why}" for group, _, why in skipped]
    held += [f"{name}: {reason}" for name, reason in graph.protected]
    return (
        f"nothing can be removed without a change: none of {count} all-zero units may go "
        f"({'; '.join(held[:3])})"
    )
