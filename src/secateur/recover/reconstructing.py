"""Recovery without training: what survives is fitted, layer by layer, to the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import CriterionError, InputError
from secateur.ignored import ignored_tensors
from secateur.layerwise import Refit, Solver, Survivors, refit_weights
from secateur.masks import masks_of
from secateur.observing import repeatable
from secateur.observing.moments import Moments
from secateur.observing.reading import Reading
from secateur.plan import Plan, history
from secateur.recover.batchnorm import recalibrate_batchnorm
from secateur.recover.kept import removed_by
from secateur.recover.settings import RECALIBRATION_BATCHES
from secateur.tensors import swap_data
from secateur.weights import Weight, prunable_weights

__all__ = ["reconstruct"]


def reconstruct(
    model: nn.Module,
    dense: nn.Module,
    data: Iterable[Any],
    *,
    plan: Plan | None = None,
    ridge: float = 0.01,
    held_out: float = 0.2,
    positions: int | None = 100,
    sequential: bool = True,
    ignore: Sequence[str | nn.Module] = (),
    recalibrate: bool | int = True,
    max_batches: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    seed: int = 0,
) -> list[Refit]:
    """Fit a pruned model's weights by least squares to what the dense model's layers compute.

    Every weight that lost inputs, or is masked, gets the entries that give the dense layer's
    outputs best, from the inputs that the pruned model hands it: layer after layer, so that errors
    of earlier ones are made up for and do not pile up (He, Zhang and Sun 2017, arXiv:1707.06168).
    Outputs are those before the bias and the activation. No labels are needed, and no learning
    rate: it is a good first step before `recover`, or all there is when data is scarce.

    With few rows of data least squares fits noise. So ``ridge`` holds weights where they are, and
    a share of every batch is held out: a fit that misses more there than the weight as it was is
    not taken.

    Parameters
    ----------
    model : torch.nn.Module
        The pruned or masked model, changed in place.
    dense : torch.nn.Module
        What it was pruned from; not changed.
    data : iterable
        Batches of inputs: pairs ``(inputs, targets)``, whose targets are not looked at, or dicts
        of keyword inputs. Read once for every layer; an iterator is kept in a temporary file.
    plan : Plan, optional
        What was removed from `dense`. By default the plans that the model remembers
        (`secateur.history`).
    ridge : float, default 0.01
        Added to the normal equations, as a share of the inputs' mean square.
    held_out : float, default 0.2
        Share of every batch's rows that judges the fit, 0 to 1; 0 judges it on what it was made
        from.
    positions : int or None, default 100
        Output positions of a convolution that count, of every sample, drawn at random; None takes
        all of them.
    sequential : bool, default True
        Fit each layer on what the fitted layers before it produce. False reads the data once.
    ignore : sequence of str or Module
        Layers to leave alone: names, patterns or modules.
    recalibrate : bool or int, default True
        Take the statistics of batch norms anew afterwards, from up to 50 batches or this many.
    max_batches : int, optional
        How many batches to take from the data.
    progress : callable, optional
        ``progress(done, total)`` after every layer.
    seed : int
        Seeds the positions and any randomness in the models.

    Returns
    -------
    list of Refit
        Every weight with the share of the output's energy that it missed before and after, in the
        order in which they ran; ``used`` is False where it was left as it was.

    Raises
    ------
    InputError
        When nothing was removed or masked, the data has no batch, a model rejects one, or the
        plan does not fit the dense model. The model is then as it was.
    UnknownNameError
        For an entry of `ignore` that matches nothing.

    Examples
    --------
    Units 0 and 2 always do the same, so one can do the work of both:

    >>> import copy
    >>> dense = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    >>> with torch.no_grad():
    ...     _ = dense[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    ...     _ = dense[2].weight.copy_(torch.tensor([[1.0, 1.0, 1.0]]))
    >>> small = copy.deepcopy(dense)
    >>> Plan(removed={"0.weight": {0: [2]}, "2.weight": {1: [2]}},
    ...      shapes={"0.weight": [3, 2], "2.weight": [1, 3]}).apply(small)
    >>> data = [(torch.rand(64, 2, generator=torch.Generator().manual_seed(0)), None)]
    >>> refit, = reconstruct(small, dense, data, ridge=1e-6)
    >>> refit.name, refit.used, small[2].weight.detach().round(decimals=2)
    ('2.weight', True, tensor([[2., 1.]]))
    """
    if not 0 <= held_out < 1:
        raise InputError(f"held_out is a share of the rows, 0 up to 1, not {held_out}")
    if not ridge > 0:
        raise InputError(f"ridge must be a positive number, not {ridge}")
    again = repeatable(data)
    assert again is not None
    reading = Reading(model, again, None, None, max_batches, seed, progress)
    survivors = Survivors(
        model, dense, reading, masks=masks_of(model), removed=_removed(model, dense, plan)
    )
    ignored = ignored_tensors(model, ignore)
    lost = {*survivors.consumers(), *survivors.masks}
    names = [
        weight.name
        for weight in prunable_weights(model)
        if weight.name in lost and weight.name not in ignored
    ]
    if not names:
        raise InputError(
            "no weight of the model lost inputs or is masked, so there is nothing to fit; pass the "
            "plan by which it was pruned"
        )
    before = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        refits = survivors.reconstruct(
            _solver(ridge), sequential=sequential, positions=positions, names=names,
            held_out=held_out,
        )  # fmt: skip
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise InputError(f"the fit of {name!r} is not finite; check the data")
        if recalibrate is not False:
            count = RECALIBRATION_BATCHES if recalibrate is True else int(recalibrate)
            recalibrate_batchnorm(model, again, max_batches=count)
    except BaseException as error:  # also when stopped
        for parameter, values in before:
            swap_data(parameter, values)
        if isinstance(error, CriterionError):
            raise InputError(f"{error} (ridge, here)") from error
        raise
    return refits


def _removed(
    model: nn.Module, dense: nn.Module, plan: Plan | None
) -> dict[str, dict[int, list[int]]]:
    plans = [plan] if plan is not None else [each for each in history(model) if each.removed]
    removed = removed_by(plans, dense)
    if removed is None:
        raise InputError(
            "the plans that the model was pruned by do not fit the dense model; pass the model "
            "that it was pruned from, or the plan that leads from one to the other"
        )
    return removed


def _solver(ridge: float) -> Solver:
    def solve(
        weight: Weight, moments: Moments, matrix: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return refit_weights(moments, matrix, mask, ridge), mask

    return solve
