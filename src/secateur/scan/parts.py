"""What it costs to make parts of one weight zero, weight by weight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from secateur.allocation import Curve, Sensitivity, Uniform
from secateur.errors import BudgetError
from secateur.inputs import Inputs
from secateur.progress import Tick
from secateur.request import Request
from secateur.scan.ledger import Ledger
from secateur.scan.pace import Pace
from secateur.scan.trials import Judge, masked_copy
from secateur.sparse.base import SparseGranularity, Task
from secateur.sparse.scoring import SparseScorer
from secateur.sparse.tiles import Tiling
from secateur.weights import Weight

__all__ = ["scan_weights"]


def scan_weights(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    granularity: SparseGranularity,
    weights: list[Weight],
    held: Mapping[str, Tensor],
    ratios: Sequence[float],
    judge: Judge,
    ledger: Ledger,
    baseline: float,
    progress: Tick | None = None,
) -> Sensitivity:
    """Mask every weight alone, at several shares of zeros, and judge each masked copy.

    Parameters
    ----------
    held : dict
        Weight name -> mask that is on it already, True where kept.
    ratios : sequence of float
        Ascending. N:M comes to the N that is nearest, down to its own; a share that leaves a
        weight less than its floor is left out.
    """
    tried = _masks(model, inputs, request, granularity, weights, held, ratios)
    pace, done, total = Pace(progress), 1, 1 + sum(map(len, tried.values()))
    curves = []
    for weight in weights:
        values = {}
        for zeros, mask in tried[weight.name].items():
            key = _masking(weight.name, mask)
            if key in ledger:
                pace.known()
            else:
                ledger.add(key, judge(*masked_copy(model, weight.name, mask)))
            values[zeros] = ledger[key]
            done += 1
            share = zeros / weight.numel
            pace(done, total, f"{weight.name} with {share:.1%} zeros: {values[zeros]:.4g}")
        curves.append(
            Curve(weight.name, weight.numel, tuple(values), tuple(values.values()), baseline)
        )
    names = granularity.name, request.criterion.spec
    return Sensitivity(baseline, tuple(curves), tuple(ratios), *names)


def _masks(
    model: nn.Module,
    inputs: Inputs,
    request: Request,
    granularity: SparseGranularity,
    weights: list[Weight],
    held: Mapping[str, Tensor],
    ratios: Sequence[float],
) -> dict[str, dict[int, Tensor]]:
    """Weight name -> number of zeros -> the mask that makes them, ascending."""
    scorers: dict[tuple[tuple[str, Tiling], ...], SparseScorer] = {}

    def scorer(units: Sequence[tuple[Weight, Tiling]]) -> SparseScorer:
        key = tuple((weight.name, tiling) for weight, tiling in units)
        if key not in scorers:
            scorers[key] = SparseScorer(
                model,
                request.criterion,
                units,
                request.data,
                request.loss,
                request.seed,
                inputs=inputs,
            )
        return scorers[key]

    uniform = Uniform()
    by_row = uniform.by_row(request.criterion.scope)

    def chosen(stage: SparseGranularity, share: float, some: list[Weight]) -> dict[str, Tensor]:
        task = Task(some, scorer, share, uniform, request.min_keep, dict(held), None, by_row)
        return stage.choose(task).masks

    found: dict[str, dict[int, Tensor]] = {weight.name: {} for weight in weights}
    for stage, share in dict.fromkeys(granularity.towards(ratio) for ratio in ratios):
        try:
            masks = chosen(stage, share, weights)
        except BudgetError:
            masks = {}
            for weight in weights:
                try:
                    masks |= chosen(stage, share, [weight])
                except BudgetError:
                    continue
        for weight in weights:
            if weight.name not in masks:
                continue
            kept, before = weight.stored(masks[weight.name]).contiguous(), held.get(weight.name)
            mask = kept if before is None else kept & before
            zeros = int((~mask).sum())
            if zeros > max(found[weight.name], default=0):
                found[weight.name][zeros] = mask
    return found


def _masking(name: str, mask: Tensor) -> str:
    packed = np.packbits(mask.cpu().numpy())
    return hashlib.sha256(name.encode() + b"\0" + packed.tobytes()).hexdigest()[:32]
