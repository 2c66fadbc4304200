"""Criteria that also change what survives, or look at what the next layer computes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from docs._pictures.drawing import GONE, INK, KEPT, OTHER, panels, picture
from docs._pictures.nets import batches, trained
from docs._pictures.units import DATA, against_magnitude, loss_of, ranked, removed, scores
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional

import secateur as sc


def zeroed(criterion: str, sparsity: float = 0.7) -> tuple[nn.Sequential, Any]:
    """The trained network with single weights at zero, and the result."""
    model = trained()
    result = sc.prune(
        model,
        batches()[0][0][:1],
        granularity="element",
        criterion=criterion,
        allocation="uniform",
        budget={"sparsity": sparsity},
        data=None if criterion == "magnitude" else batches()[:DATA],
    )
    return model, result


def misses(axes: Any, criterion: str) -> None:
    """What every layer misses of its dense output, before and after the update."""
    _, result = zeroed(criterion)
    places = range(len(result.refits))
    for shift, colour, label in ((-0.2, GONE, "before"), (0.2, KEPT, "after")):
        heights = [100 * getattr(refit, label) for refit in result.refits]
        bars = axes.bar([place + shift for place in places], heights, width=0.36, color=colour)
        axes.bar_label(bars, fmt="%.1f", padding=1, fontsize=8, color=INK)
    axes.legend(["without the update", "with it"], loc="upper right")
    axes.set_xticks(places, [refit.name for refit in result.refits])
    axes.set(title="70 % zeros: output that a layer misses, %")
    axes.margins(y=0.25)


@picture("criteria/obs")
def obs() -> Figure:
    torch.manual_seed(0)
    common = torch.randn(512, 1)
    inputs = 0.8 * common + 0.5 * torch.randn(512, 2) * torch.tensor([1.0, 1.2])
    best = torch.tensor([[1.0, 1.5]])
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(best)
    targets = model(inputs).detach()
    figure, (left, right) = panels()
    span = torch.linspace(-0.5, 2.0, 60), torch.linspace(0.5, 3.0, 60)
    grid = torch.cartesian_prod(*span)
    losses = (inputs @ grid.T - targets).square().mean(0).view(60, 60)
    left.contour(*span, losses.T, levels=12, colors=INK, linewidths=0.6, alpha=0.7)
    for name, colour in (("obs", KEPT), ("magnitude", GONE)):
        pruned = copy.deepcopy(model)
        sc.prune(
            pruned,
            inputs[:1],
            granularity="element",
            criterion=name,
            budget={"sparsity": 0.5},
            data=None if name == "magnitude" else [(inputs, targets)],
            loss=functional.mse_loss,
        )
        end = pruned[0].weight[0].tolist()
        left.annotate("", end, best[0].tolist(), arrowprops={"color": colour, "width": 1.5,
                      "headwidth": 7, "headlength": 7})  # fmt: skip
        left.annotate(name, end, (6, 6), textcoords="offset points", color=colour)
    left.set(xlabel="first weight, which goes", ylabel="second weight")
    left.set_title("obs: the survivor makes up for it")
    misses(right, "obs")
    return figure


@picture("criteria/sparsegpt")
def sparsegpt() -> Figure:
    figure, (left, right) = panels()
    dense = trained()[3].weight.detach()
    model, result = zeroed("sparsegpt")
    kept = result.plan.masks["3.weight"]
    moved = ((model[3].weight.detach() - dense).abs() * kept).movedim(1, -1).flatten(1).sum(0)
    count = kept.movedim(1, -1).flatten(1).sum(0)
    left.bar(range(len(moved)), moved / count.clamp(min=1), width=1.0, color=KEPT)
    left.set(xlabel="columns, in the order of the sweep", xticks=[])
    left.set_title("sparsegpt: mean |Δw| of what survives")
    misses(right, "sparsegpt")
    return figure


@picture("criteria/woodfisher")
def woodfisher() -> Figure:
    figure, (left, right) = panels()
    amounts = (0.5, 0.65, 0.8)
    for name, colour, label in (
        ("woodfisher:max_batches=2", KEPT, "woodfisher"),
        ("woodfisher:max_batches=2,update=False", GONE, "without the update"),
        ("magnitude", OTHER, "magnitude"),
    ):
        losses = [loss_of(zeroed(name, amount)[0]) for amount in amounts]
        left.plot([100 * amount for amount in amounts], losses, "o-", color=colour, label=label)
    left.set(xlabel="sparsity, %", title="Loss after pruning, not trained again", yscale="log")
    left.legend(loc="upper left")
    against_magnitude(right, "woodfisher:max_batches=2")
    return figure


def of_contributions(name: str, what: str) -> None:
    """The picture of a criterion that looks at what channels give the next layer."""

    @picture(f"criteria/{name}")
    def _() -> Figure:
        figure, (left, right) = panels()
        model = trained()
        ranked(left, scores(model, name), removed(model, name), f"{name}: {what}")
        against_magnitude(right, name)
        return figure


of_contributions("thinet", "share of the output missed")
of_contributions("lasso", "λ from which on β = 0")
