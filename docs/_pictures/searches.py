"""Allocations of structured pruning: what every group keeps, and what was tried on the way."""

from __future__ import annotations

import numpy as np
import torch
from docs._pictures.drawing import GONE, INK, KEPT, OTHER, panels, picture
from docs._pictures.nets import Residual, batches, trained
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

import secateur as sc
from secateur.criteria import L2, Scorer
from secateur.data import load_digits
from secateur.graph import trace
from secateur.graph.kinds import kinds
from secateur.inputs import as_inputs
from secateur.prune import Result

BUDGET = {"macs": 0.4}
IMAGES = batches()[0][0][:1]


def accuracy(model: nn.Module) -> float:
    """Percent of the validation digits that a model tells right."""
    split = load_digits(size=8).val
    with torch.no_grad():
        return 100 * float((model(split.inputs).argmax(1) == split.labels).double().mean())


class Log:
    """Measures models, and notes how large and how good every one was."""

    def __init__(self) -> None:
        self.macs: list[float] = []
        self.values: list[float] = []
        self._dense = sc.profile(trained(Residual), IMAGES).macs

    def __call__(self, model: nn.Module) -> float:
        self.macs.append(100 * sc.profile(model, IMAGES).macs / self._dense)
        self.values.append(accuracy(model))
        return self.values[-1]


def kept_shares(axes: Axes, result: Result, other: Result, names: list[str]) -> None:
    """Bars of what every group keeps, beside what it keeps under another allocation."""
    places = range(len(result.groups))
    for shift, found, style in (
        (-0.18, result, {"color": KEPT}),
        (0.18, other, {"facecolor": "none", "edgecolor": INK}),
    ):
        shares = [100 * group.after / group.before for group in found.groups]
        axes.bar([place + shift for place in places], shares, width=0.36, **style)
    labels = [f"{group.name.removesuffix('.weight')}\n{group.before}" for group in result.groups]
    axes.set_xticks(places, labels)
    axes.tick_params(axis="x", length=0)
    axes.legend(names, loc="upper right")
    axes.set(ylim=(0, 130), yticks=[0, 50, 100], title="Units of each group that stay, %")


@picture("allocations/isomorphic")
def isomorphic() -> Figure:
    names = ["isomorphic", "global:normalize=raw"]
    results = [
        sc.prune(trained(Residual), IMAGES, allocation=name, budget=BUDGET) for name in names
    ]
    figure, (shares, sets) = panels()
    kept_shares(shares, results[0], results[1], names)
    alike = kinds(trace(trained(Residual), IMAGES))
    for place, kind in enumerate(dict.fromkeys(alike)):
        for shift, result, colour in ((-0.18, results[0], GONE), (0.18, results[1], OTHER)):
            mine = [group for group, own in zip(result.groups, alike, strict=True) if own == kind]
            lost = 1 - sum(group.after for group in mine) / sum(group.before for group in mine)
            bar = sets.bar([place + shift], [100 * lost], width=0.36, color=colour)
            sets.bar_label(bar, fmt="%.0f", padding=1, fontsize=8, color=INK)
    sets.set_xticks(range(2), ["residual stream", "inside of blocks"])
    sets.tick_params(axis="x", length=0)
    sets.legend(names, loc="upper right")
    sets.set(ylim=(0, 130), yticks=[0, 50, 100], title="Units that each set lost, %")
    return figure


@picture("allocations/netadapt")
def netadapt() -> Figure:
    log, names = Log(), ["netadapt", "uniform"]
    found = sc.prune(
        trained(Residual), IMAGES, allocation="netadapt:step=0.05", budget=BUDGET, evaluate=log
    )
    other = sc.prune(trained(Residual), IMAGES, allocation="uniform", budget=BUDGET)
    figure, (shares, tried) = panels()
    kept_shares(shares, found, other, names)
    tried.scatter(log.macs, log.values, s=9, color=KEPT, label="proposals of netadapt")
    for result, colour, name in ((found, GONE, "the last one taken"), (other, INK, "uniform")):
        macs = 100 * result.after.macs / result.before.macs
        tried.scatter([macs], [accuracy(result.model)], s=40, color=colour, label=name)
    tried.legend(loc="lower right")
    tried.set(xlabel="MACs left, %", title="Accuracy of what was tried, %")
    return figure


def searched(name: str, spec: str) -> Figure:
    """What a search chose, and how good the trials on the way were."""
    log, names = Log(), [name, "uniform"]
    found = sc.prune(trained(Residual), IMAGES, allocation=spec, budget=BUDGET, evaluate=log)
    other = sc.prune(trained(Residual), IMAGES, allocation="uniform", budget=BUDGET)
    figure, (shares, tried) = panels()
    kept_shares(shares, found, other, names)
    places = range(1, len(log.values) + 1)
    tried.scatter(places, log.values, s=9, color=KEPT, label="tried")
    tops = [max(log.values[:place]) for place in places]
    tried.plot(places, tops, color=GONE, drawstyle="steps-post", label="best so far")
    tried.axhline(accuracy(other.model), color=INK, linewidth=0.8, linestyle=":", label="uniform")
    tried.legend(loc="lower right")
    tried.set(xlabel="models tried", title=f"{name}: accuracy at 40 % of the MACs, %")
    return figure


@picture("allocations/evolution")
def evolution() -> Figure:
    return searched("evolution", "evolution:population=8,generations=8")


@picture("allocations/bayes")
def bayes() -> Figure:
    return searched("bayes", "bayes:trials=72")


@picture("allocations/knapsack")
def knapsack() -> Figure:
    names = ["knapsack", "global", "uniform"]
    results = [
        sc.prune(trained(Residual), IMAGES, allocation=name, budget=BUDGET) for name in names
    ]
    figure, (shares, lost) = panels()
    kept_shares(shares, results[0], results[1], names[:2])
    scorer = Scorer(trained(Residual), L2(), None, None, 0, inputs=as_inputs(IMAGES))
    graph = trace(trained(Residual), IMAGES)
    values = scorer.classes(graph).values
    totals = []
    for result in results:
        total = 0.0
        for group, found in zip(graph.groups, result.groups, strict=True):
            scores = np.sort(values[group.classes])
            total += float((scores / scores.mean())[: found.before - found.after].sum())
        totals.append(total)
    bars = lost.bar(names, totals, width=0.5, color=[GONE, OTHER, OTHER])
    lost.bar_label(bars, fmt="%.2f", padding=1, fontsize=8, color=INK)
    lost.tick_params(axis="x", length=0)
    lost.set(ylim=(0, 1.2 * max(totals)), title="Scores lost, in means of their groups")
    return figure
