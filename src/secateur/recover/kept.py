"""Which of a dense model's features a pruned one still has, at any place inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from secateur.graph import Graph
from secateur.graph.trace import Recorder, Trace
from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.plan import Plan

__all__ = ["kept_features", "removed_by"]

Removed = Mapping[str, Mapping[int, Sequence[int]]]


def removed_by(plans: Iterable[Plan], dense: nn.Module) -> dict[str, dict[int, list[int]]] | None:
    """What plans that were applied one after the other removed, by the indices of the dense model.

    Parameters
    ----------
    plans : iterable of Plan
        Oldest first. Each counts on the model that the one before left.
    dense : torch.nn.Module
        The model from before the first.

    Returns
    -------
    dict or None
        Name -> dimension -> sorted indices; None where the plans are for another model.

    Examples
    --------
    >>> plans = [Plan(removed={"weight": {0: [0]}}), Plan(removed={"weight": {0: [1]}})]
    >>> removed_by(plans, nn.Linear(2, 4))
    {'weight': {0: [0, 2]}}
    """
    shapes = {name: tensor.shape for name, tensor in _named(dense)}
    left: dict[tuple[str, int], list[int]] = {}
    for plan in plans:
        for name, dims in plan.removed.items():
            for dim, indices in dims.items():
                if name not in shapes or dim >= len(shapes[name]):
                    return None
                still = left.setdefault((name, dim), list(range(shapes[name][dim])))
                if len(plan.shapes.get(name, ())) > dim and plan.shapes[name][dim] != len(still):
                    return None
                if indices and max(indices) >= len(still):
                    return None
                gone = set(indices)
                left[name, dim] = [at for place, at in enumerate(still) if place not in gone]
    removed: dict[str, dict[int, list[int]]] = {}
    for (name, dim), still in left.items():
        gone_here = sorted(set(range(shapes[name][dim])) - set(still))
        removed.setdefault(name, {})[dim] = gone_here
    return removed


def kept_features(
    dense: nn.Module, inputs: Inputs, removed: Removed, modules: Iterable[str]
) -> dict[str, dict[int, list[int]]]:
    """The indices of modules' outputs that are left once something was removed.

    One forward pass of the dense model is recorded, and the identities of its dimensions are
    followed from the weights to the outputs of the modules: through sums, concatenations,
    reshapes and whatever else the graph knows.

    Parameters
    ----------
    dense : torch.nn.Module
    inputs : Inputs
    removed : mapping
        Parameter or buffer -> dimension -> indices.
    modules : iterable of str

    Returns
    -------
    dict
        Module -> dimension of its (first) output -> sorted indices that are left; dimensions that
        lose nothing, or whose indices cannot be followed, are left out.

    Examples
    --------
    >>> import torch
    >>> dense = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> removed = {"0.weight": {0: [1]}, "2.weight": {1: [1]}}
    >>> kept_features(dense, Inputs((torch.zeros(1, 2),)), removed, ["1"])
    {'1': {1: [0, 2]}}
    """
    inputs = inputs.fresh()
    recorder = Recorder(dense, inputs)
    places: dict[str, int] = {}
    handles = [
        dense.get_submodule(name).register_forward_hook(_noting(recorder, places, name))
        for name in modules
    ]
    try:
        with evaluating(dense):
            with recorder.watching():
                output = run(dense, inputs)
            outputs = [(name, recorder.index_of(tensor)) for name, tensor in named_tensors(output)]
    finally:
        for handle in handles:
            handle.remove()
    trace = Trace(recorder.values, list(recorder.nodes), outputs, recorder.module_inputs)
    graph = Graph(dense, trace)
    gone = np.zeros(graph.n_classes, dtype=bool)
    for member in graph.members:
        indices = removed.get(member.name, {}).get(member.dim, ())
        gone[member.classes[list(indices)]] = True
    found: dict[str, dict[int, list[int]]] = {}
    for name, index in places.items():
        for dim, lane in enumerate(graph.propagation.layout(index)):
            if lane is None or lane.ids is None or lane.rows:
                continue
            left = ~gone[graph.classes_of(lane)]
            if not left.all():
                found.setdefault(name, {})[dim] = np.flatnonzero(left).tolist()
    return found


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _noting(recorder: Recorder, places: dict[str, int], name: str):  # type: ignore[no-untyped-def]
    """A hook that notes which value a module's first output is."""

    def note(module: nn.Module, args: object, output: object) -> None:
        for _, tensor in named_tensors(output):
            places.setdefault(name, recorder.index_of(tensor))
            break

    return note
