"""Layer by layer: what survives is fitted to what the dense model's layer computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor, nn

from secateur.errors import InputError
from secateur.layerwise.pairs import Pairs, watch
from secateur.observing.moments import Moments
from secateur.observing.patches import parameter_shape
from secateur.observing.reading import Reading
from secateur.observing.watching import Product
from secateur.tensors import swap_data
from secateur.weights import Weight, parameter_names, prunable_weights

__all__ = ["HELD_OUT", "Refit", "Solver", "reconstruct"]

HELD_OUT = 0.2
"""Share of every batch's rows that a fit is judged by."""

Solved = tuple[Tensor, "Tensor | None"]
Solver = Callable[[Weight, Moments, Tensor, "Tensor | None"], Solved]
"""``(weight, moments, matrix, mask) -> (matrix, mask)``: new entries for a weight, and where they
may be other than zero, laid out as by `Weight.matrix`; None for everywhere."""


@dataclasses.dataclass(frozen=True)
class Refit:
    """What became of one weight.

    Attributes
    ----------
    name : str
    before, after : float
        Share of the dense layer's output energy that is missed, on data held out from the fit;
        without a bias.
    used : bool
        Whether the new entries were taken: not if they miss more on what was held out.
    mask : Tensor of bool or None
        Entries that may be other than zero, as the module stores the weight.
    """

    name: str
    before: float
    after: float
    used: bool
    mask: Tensor | None = dataclasses.field(default=None, repr=False, compare=False)


def reconstruct(
    model: nn.Module,
    dense: nn.Module,
    reading: Reading,
    names: Iterable[str],
    solve: Solver,
    *,
    masks: Mapping[str, Tensor] | None = None,
    removed: Mapping[str, Mapping[int, Sequence[int]]] | None = None,
    held_out: float = HELD_OUT,
    positions: int | None = None,
    sequential: bool = True,
    unconditional: bool = False,
) -> list[Refit]:
    """Fit weights of a pruned model to the dense one, in the order in which they run.

    What a weight multiplies is taken from the pruned model, with everything before it fitted
    already, and what its product should be from the dense model, at the same samples and places:
    errors of earlier layers are made up for and do not pile up (He et al. 2017,
    arXiv:1707.06168). Weights that read the same values are fitted together.

    Parameters
    ----------
    model : nn.Module
        Changed in place: contents of parameters are exchanged.
    dense : nn.Module
        What it was pruned from.
    reading : Reading
        Its data is read once for every step, or once in all if not `sequential`. Its progress is
        told after every step.
    names : iterable of str
        Weights of `model` to fit.
    solve : callable
    masks : mapping, optional
        Weight -> True where it may be other than zero, as the module stores it. The others become
        zero when their turn comes.
    removed : mapping, optional
        Parameter name -> dimension -> indices of `dense` that `model` lacks.
    held_out : float, default 0.2
        Share of every batch's rows that decides whether the fit is taken.
    positions : int, optional
        Output positions of a convolution that count, of every sample; default all.
    sequential : bool, default True
        False reads the data once: inputs are then those of `model` as it is given, and memory
        holds the moments of all weights at once.
    unconditional : bool, default False
        Take what `solve` returns even if the weight as it was is better on what was held out:
        for solvers that also choose what becomes zero.

    Returns
    -------
    list of Refit
        In the order in which the weights ran.

    Raises
    ------
    InputError
        When the data cannot be read again, or the model never multiplies by a weight.
    """
    if sequential and iter(reading.data) is reading.data:
        raise InputError(
            "data is an iterator, which can be read only once, and layers are fitted one after "
            "the other; pass a list or a DataLoader, or sequential=False"
        )
    weights = {weight.name: weight for weight in prunable_weights(model)}
    wanted = {name: weights[name] for name in names}
    parameters = parameter_names(model, wanted.values())
    targets = {
        parameter: wanted[name] for name, parameter in parameters.items() if parameter is not None
    }
    if not targets:
        return []
    order = _order(model, reading, targets)
    stages = order if sequential else [[name for stage in order for name in stage]]
    refits: dict[str, Refit] = {}
    for done, stage in enumerate(stages, start=1):
        some = {name: targets[name] for name in stage}
        pairs = Pairs(model, dense, reading, some, removed or {}, held_out, positions)
        for name, (fitting, judging) in pairs.moments().items():
            weight = targets[name]
            parameter = model.get_parameter(name)
            old = weight.matrix(parameter.detach()).to(fitting.inputs.dtype)
            mask = (masks or {}).get(weight.name)
            held = None if mask is None else weight.matrix(mask.to(old.device))
            new, held = solve(weight, fitting, old, held)
            plain = old if held is None else old * held
            judge = judging if judging.rows else fitting
            before, after = judge.error(plain), judge.error(new)
            used = unconditional or after < before
            mask = None if held is None else weight.from_matrix(held)
            refits[name] = Refit(weight.name, before, after if used else before, used, mask)
            taken = new if used else plain
            swap_data(parameter, weight.from_matrix(taken).to(parameter.dtype))
        if reading.progress is not None:
            reading.progress(done, len(stages))
    return list(refits.values())


def _order(model: nn.Module, reading: Reading, targets: Mapping[str, Weight]) -> list[list[str]]:
    """Weights in the order in which they run first; those that read one value together."""
    first: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def product(seen: Product, result: object) -> None:
        for name in seen.names:
            if parameter_shape(seen) == targets[name].shape and name not in first:
                # Held, so that no later value can lie at the same address.
                first[name], versions[name] = seen.given, seen.given._version

    inputs = reading.inputs
    if inputs is None:
        inputs = next(iter(dataclasses.replace(reading, progress=None).batches()))[0]
    watch(model, inputs, reading.seed, targets, product)
    missing = [name for name in targets if name not in first]
    if missing:
        raise InputError(
            f"no plain product or convolution uses {missing[0]!r}, so it cannot be fitted; "
            "ignore that layer, or take another criterion"
        )
    stages: dict[tuple[int, int], list[str]] = {}
    for name, given in first.items():
        stages.setdefault((given.data_ptr(), versions[name]), []).append(name)
    return list(stages.values())
