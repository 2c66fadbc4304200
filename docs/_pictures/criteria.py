"""Criteria that look at weights alone."""

from __future__ import annotations

import copy

import numpy as np
import torch
from docs._pictures.drawing import FAINT, GONE, INK, KEPT, OTHER, panels, picture
from docs._pictures.nets import batches, convolutional, trained
from docs._pictures.units import against_magnitude, ranked, removed, scores
from matplotlib.figure import Figure
from torch import nn

import secateur as sc
from secateur.criteria import Scorer


@picture("criteria/random")
def random() -> Figure:
    figure, (left, right) = panels()
    model, inputs = trained(), batches()[0][0][:1]
    graph = sc.trace(model, inputs)
    (group,) = [group for group in graph.groups if group.name.startswith("3")]
    for seed, width, colour in ((0, 0.8, KEPT), (1, 0.3, INK)):
        values = Scorer(model, "random", seed=seed).classes(graph).values[group.classes]
        left.bar(range(len(values)), values, width=width, color=colour, label=f"seed={seed}")
    left.set(title="random: a score for every channel", xlabel="channel", ylim=(0, 1.25))
    left.legend(loc="upper right", ncols=2)
    against_magnitude(right, "random")
    return figure


@picture("criteria/magnitude")
def magnitude() -> Figure:
    figure, (left, right) = panels()
    model = trained()
    ranked(left, scores(model, "l2"), removed(model, "l2"), "l2: norm of every channel")
    two = scores(model, "l2")
    for name, colour, marker in (
        ("l1", KEPT, "o"),
        ("lp:p=0.5", OTHER, "s"),
        ("lp:p=8", GONE, "v"),
    ):
        values = scores(model, name)
        right.plot(two / two.mean(), values / values.mean(), marker, color=colour, label=name)
    right.set(title="Other norms against l2, each by its mean", xlabel="l2")
    right.legend(loc="upper left")
    return figure


@picture("criteria/bn_scale")
def bn_scale() -> Figure:
    figure, (left, right) = panels()
    model, inputs = trained(), batches()[0][0][:1]
    plan = sc.prune(trained(), inputs, criterion="bn_scale", budget={"macs": 0.5}).plan
    start, highest = 0, 0.0
    for name in ("1", "4"):
        values = model.get_submodule(name).weight.detach().abs().numpy()
        gone = plan.removed.get(f"{name}.weight", {}).get(0, [])
        highest = max([highest, *values[gone]])
        colours = [GONE if unit in gone else KEPT for unit in range(len(values))]
        places = np.arange(start, start + len(values))
        left.bar(places, values, color=colours, width=0.8)
        start += len(values) + 2
    left.axhline(highest, color=INK, linewidth=0.8, linestyle=":")
    left.set(title="bn_scale: |γ| of two layers, one threshold", xticks=[7.5, 29.5])
    left.set_xticklabels(["16 channels", "24 channels"])
    against_magnitude(right, "bn_scale")
    return figure


class LayerScale(nn.Module):
    """A factor for every channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps * self.gamma


@picture("criteria/scale")
def scale() -> Figure:
    torch.manual_seed(0)
    model = convolutional()
    model[4] = LayerScale(24)
    figure, (left, right) = panels()
    title = "scale: |s| of a LayerScale"
    ranked(left, scores(model, "scale"), removed(model, "scale"), title)
    against_magnitude(right, "scale", model)
    return figure


@picture("criteria/fpgm")
def fpgm() -> Figure:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(2, 12, bias=False), nn.ReLU(), nn.Linear(12, 2))
    with torch.no_grad():  # eight alike, far from the origin, and four that stand apart
        near = torch.tensor([2.2, 1.6]) + 0.35 * torch.randn(8, 2)
        apart = torch.tensor([[0.6, -0.5], [-0.9, 1.4], [0.2, 2.6], [3.4, -0.3]])
        model[0].weight.copy_(torch.cat([near, apart]))
    points = model[0].weight.detach().clone().numpy()
    figure, axes = panels()
    for each, name in zip(axes, ("fpgm", "magnitude:view=producer"), strict=True):
        plan = sc.prune(
            copy.deepcopy(model),
            torch.zeros(1, 2),
            criterion=name,
            budget={"params": 0.67},
        ).plan
        gone = plan.removed["0.weight"][0]
        kept = [unit for unit in range(len(points)) if unit not in gone]
        each.plot(*points[kept].T, "o", color=KEPT, label="kept")
        each.plot(*points[gone].T, "X", color=GONE, label="goes", markersize=7)
        each.plot(0, 0, "+", color=INK)
        each.annotate("origin", (0, 0), (4, 4), textcoords="offset points", fontsize=8)
        each.set(title=f"{name.partition(':')[0]}: filters as points", xlabel="first weight")
        each.set(xlim=(-1.5, 4), ylim=(-1.2, 3.2))
        each.grid(color=FAINT, linewidth=0.5)
    axes[0].set_ylabel("second weight")
    axes[0].legend(loc="lower left")
    return figure


@picture("criteria/synflow")
def synflow() -> Figure:
    figure, (left, right) = panels()
    inputs = batches()[0][0][:1]
    ways = (("synflow", KEPT), ("synflow:rounds=1", GONE), ("magnitude", OTHER))
    for place, (criterion, colour) in enumerate(ways):
        plan = sc.prune(
            convolutional().eval(),
            inputs,
            granularity="element",
            criterion=criterion,
            allocation="global:normalize=raw",
            budget={"sparsity": 0.95},
        ).plan
        kept = [100 * float(mask.float().mean()) for mask in plan.masks.values()]
        places = [layer + 0.26 * (place - 1) for layer in range(len(kept))]
        bars = left.bar(places, kept, width=0.24, color=colour, label=criterion)
        left.bar_label(bars, fmt="%.0f", padding=1, fontsize=8, color=INK)
    left.set(title="Untrained, 95 % sparse: what each layer keeps, %", ylim=(0, 120))
    left.set_xticks(range(3), ["conv", "conv", "linear"])
    left.legend(loc="upper right")
    against_magnitude(right, "synflow")
    return figure
