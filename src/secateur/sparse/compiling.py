"""Choosing, for every layer of a model, what runs it fastest on this machine."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.inputs import ExampleInputs, Inputs, as_inputs, in_eval_mode, named_tensors, run
from secateur.profiling.latency import interleave
from secateur.sparse.activations import name_of
from secateur.sparse.candidates import DENSE, Layer, Maker, candidates, fixed, why_not
from secateur.sparse.choices import Choice, Compiled, choose
from secateur.sparse.dense import Prepacked
from secateur.sparse.fusing import Fusion, fold, replace, watch
from secateur.sparse.layer import SparseLayer
from secateur.sparse.records import Records

__all__ = ["compile"]

Calls = Counter[tuple[int, ...]]

RUNS, WARMUP, SECONDS, MODEL_SECONDS = 15, 2, 2.0, 20.0
MOST_SHAPES = 4
LEAST_GAIN = 1.15
COLD_BYTES, MOST_COPIES, MANY_POSITIONS = 64 << 20, 6, 64
TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1}


def compile(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    dtypes: Collection[str] = ("float32",),
    least_gain: float = LEAST_GAIN,
    cache: bool | str | os.PathLike[str] = True,
    verbose: bool = True,
) -> Compiled:
    """Let every linear layer and convolution run in the way that is fastest here.

    Each layer is timed on inputs of the sizes that it gets: dense, dense in other layouts, and,
    where it has enough zeros, through torch's CSR and the sparse kernels with vectors of 1, 4, 8
    and 16.
    The candidates take turns; medians count. A layer becomes sparse only where that beats the best
    dense way. Batch norms go into the convolutions before them, and sparse layers compute the
    activation behind them along, where nothing else reads what is between. At the end the whole
    model is timed, and stays as it was where it is no faster.

    Parameters
    ----------
    model : torch.nn.Module
        float32 on the CPU; it is not changed. Zeros count wherever they come from: `secateur.prune`
        with a sparse granularity, or another tool.
    example_inputs : Tensor, tuple or dict
        Of the batch size that the model will run at.
    dtypes : collection of str, default ("float32",)
        Add ``"bfloat16"`` to allow dense layers to compute in it where that is fastest.
    least_gain : float, default 1.15
        How many times as fast as the best dense way a sparse one has to be.
    cache : bool or path-like, default True
        Keep the timings in ``$XDG_CACHE_HOME/secateur/sparse.json`` or the file that is named, by
        machine, versions, threads, sizes and pattern of zeros, and use those that are there.
    verbose : bool, default True
        Print the table.

    Returns
    -------
    Compiled
        ``.model``, ``.choices`` and the times before and after; ``print`` shows the table.

    Raises
    ------
    InputError
        Where the model rejects the inputs, or the compiled model computes something else. When it
        runs after a weight of the original was changed, a compiled layer raises one as well.

    Notes
    -----
    The weights of the compiled layers are frozen: it is for inference, and gradients reach the
    inputs only.

    Examples
    --------
    >>> import secateur as sc
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> _ = sc.prune(model, torch.randn(4, 64), granularity="element", budget={"sparsity": 0.9})
    >>> compiled = sc.sparse.compile(model, torch.randn(4, 64), cache=False, verbose=False)
    >>> [choice.name for choice in compiled.choices]
    ['0', '2']
    >>> compiled.model(torch.randn(4, 64)).shape
    torch.Size([4, 8])
    """
    if least_gain < 1:
        raise InputError(f"least_gain is at least 1, not {least_gain}")
    inputs = as_inputs(example_inputs)
    copied = copy.deepcopy(model).eval()
    originals = dict(model.named_modules())
    layers: dict[str, Any] = {
        name: module
        for name, module in copied.named_modules()
        if type(module) in (nn.Linear, nn.Conv2d)
    }
    watched = watch(copied, layers, inputs)
    fold(copied, watched.fusions)
    path = Records.default_path() if cache is True else cache or None
    records, choices = Records(path), []
    replaced: dict[str, nn.Module] = {}
    with torch.no_grad():
        for name, layer in layers.items():
            choice, made = _decide(name, layer, watched.calls[name], dtypes, least_gain, records)
            fusion = watched.fusions.get(name, Fusion())
            if isinstance(made, SparseLayer):
                made.watch(originals[name].get_parameter("weight"), name)
            if fusion.activation and isinstance(made, (SparseLayer, Prepacked)):
                made.compute_along(name_of(copied.get_submodule(fusion.activation)) or "none")
                replace(copied, fusion.activation)
            if made is not layer:
                replaced[name] = made
            choices.append(dataclasses.replace(choice, along=_along(fusion, made)))
    records.write()
    _replace(copied, {id(layers[name]): made for name, made in replaced.items()})
    with in_eval_mode(copied):
        error = _difference(watched.output, run(copied, inputs.fresh()))
    if not error <= max(TOLERANCE[dtype] for dtype in dtypes):
        raise InputError(
            f"the compiled model's outputs differ from the dense ones by {error:.2g} of the "
            "largest; are they the same for the same inputs?"
        )
    found = _settle(model, copied, choices, replaced, inputs, error)
    if verbose:
        print(found)
    return found


def _decide(
    name: str,
    layer: Layer,
    calls: Calls,
    dtypes: Collection[str],
    least_gain: float,
    records: Records,
) -> tuple[Choice, nn.Module]:
    zeros = float((layer.weight == 0).float().mean())
    reason = fixed(layer) or (None if calls else "the example inputs do not reach it")
    if reason:
        return Choice(name, DENSE, reason, zeros), layer
    makers = candidates(layer, dtypes)
    frequent = dict(calls.most_common(MOST_SHAPES))
    key = records.key(layer, frequent, list(makers))
    medians = records.get(key, list(makers))
    if medians is None:
        medians = dict.fromkeys(makers, 0.0)
        for shape, times in frequent.items():
            for candidate, median in _timed(layer, makers, shape).items():
                medians[candidate] += times * median
        records.add(key, medians)
    chosen, why = choose(medians, least_gain)
    return Choice(name, chosen, why_not(layer) or why, zeros, medians), makers[chosen](layer)


def _along(fusion: Fusion, made: nn.Module) -> tuple[str, ...]:
    """What is computed along with a layer, in words."""
    activation = getattr(made, "activation", "none")
    norm = ("batch norm",) if fusion.norm else ()
    return norm if activation == "none" else (*norm, activation)


def _timed(layer: Layer, makers: dict[str, Maker], shape: tuple[int, ...]) -> dict[str, float]:
    """Medians in milliseconds.

    Where a weight is read for few positions only, as many copies take turns as no cache holds: in
    a model its weights come from memory, too.
    """
    x = torch.randn(shape)
    positions = x.numel() // x.shape[1 if isinstance(layer, nn.Conv2d) and x.ndim == 4 else -1]
    bytes = layer.weight.numel() * layer.weight.element_size()
    copies = 1
    if positions < MANY_POSITIONS:
        copies = max(1, min(COLD_BYTES // bytes, MOST_COPIES))
    turns = {
        candidate: _in_turns([make(copy.deepcopy(layer)) for _ in range(copies)], x)
        for candidate, make in makers.items()
    }
    timings = interleave(turns, warmup=WARMUP * copies, runs=RUNS, seconds=SECONDS)
    return {candidate: timing.median_ms for candidate, timing in timings.items()}


def _in_turns(modules: list[nn.Module], x: Tensor) -> Callable[[], Any]:
    turn: Iterator[nn.Module] = itertools.cycle(modules)
    return lambda: next(turn)(x)


def _replace(model: nn.Module, made: dict[int, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in made and parent is not made[id(child)]:
                parent._modules[name] = made[id(child)]


def _difference(before: Any, after: Any) -> float:
    """Largest difference of two outputs, as a fraction of the largest entry."""
    largest = 0.0
    pairs = zip(named_tensors(before, ""), named_tensors(after, ""), strict=True)
    for (_, one), (_, other) in pairs:
        if one.is_floating_point() and one.numel():
            scale = one.abs().max().clamp_min(1e-30)
            largest = max(largest, float((one - other).abs().max() / scale))
    return largest


def _settle(
    model: nn.Module,
    copied: nn.Module,
    choices: list[Choice],
    replaced: dict[str, nn.Module],
    inputs: Inputs,
    error: float,
) -> Compiled:
    """Time the whole model; what did not make it faster goes."""
    with in_eval_mode(model), in_eval_mode(copied):
        turns = {
            "dense": lambda: model(*inputs.args, **inputs.kwargs),
            "compiled": lambda: copied(*inputs.args, **inputs.kwargs),
        }
        timed = interleave(turns, warmup=3, runs=RUNS, seconds=MODEL_SECONDS)
    dense, after = timed["dense"], timed["compiled"]
    if dense.median_ms < after.median_ms:
        times = after.median_ms / dense.median_ms
        slower = f"the whole model was {times:.2f} times as slow with what was chosen"
        kept = [
            dataclasses.replace(
                choice,
                chosen=DENSE,
                why=slower if choice.name in replaced else choice.why,
                along=(),
            )
            for choice in choices
        ]
        copied = copy.deepcopy(model).eval()
        return Compiled(copied, kept, dense.median_ms, dense.median_ms, 0.0, dense.threads)
    return Compiled(copied, choices, dense.median_ms, after.median_ms, error, dense.threads)
