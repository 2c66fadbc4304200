"""Channels of the trained network: their scores, which of them go, and what they are worth."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from docs._pictures.drawing import FAINT, GONE, INK, KEPT, OTHER
from docs._pictures.nets import batches, trained
from torch import nn
from torch.nn import functional

import secateur as sc
from secateur.criteria import Scorer, as_criterion

# The second convolution of the network, its batch norm, and the ReLU behind.
CONV, NORM, RELU = 3, 4, 5
DATA = 8


def data_for(criterion: str) -> Any:
    """Eight batches, for the criteria that read data."""
    return batches()[:DATA] if as_criterion(criterion).needs_data else None


def scores(model: nn.Module, criterion: str, producer: str = f"{CONV}.weight") -> np.ndarray:
    """The score of every channel that a weight makes."""
    inputs = batches()[0][0][:1]
    graph = sc.trace(model, inputs)
    (group,) = [
        group
        for group in graph.groups
        if any(member.name == producer and member.dim == 0 for member in group.members)
    ]
    scorer = Scorer(model, criterion, data_for(criterion), inputs=inputs)
    return scorer.classes(graph).values[np.asarray(group.classes)]


def removed(model: nn.Module, criterion: str, producer: str = f"{CONV}.weight") -> list[int]:
    """The channels of a weight that go at half the multiply-accumulates."""
    result = sc.prune(
        copy.deepcopy(model),
        batches()[0][0][:1],
        criterion=criterion,
        allocation="uniform",
        budget={"macs": 0.5},
        data=data_for(criterion),
    )
    return result.plan.removed[producer][0]


def ranked(axes: Any, values: np.ndarray, gone: list[int], title: str) -> None:
    """Scores in ascending order; what goes in another colour."""
    order = np.argsort(values, kind="stable")
    colours = [GONE if unit in gone else KEPT for unit in order]
    axes.bar(range(len(order)), values[order], color=colours, width=0.8)
    axes.set(title=title, xlabel="channels by score; those that go in orange", xticks=[])


def against_magnitude(axes: Any, criterion: str, model: nn.Module | None = None) -> None:
    """Every channel by two scores, coloured by which of the two criteria removes it."""
    model = trained() if model is None else model
    magnitude, own = scores(model, "magnitude"), scores(model, criterion)
    small, gone = set(removed(model, "magnitude")), set(removed(model, criterion))
    units = set(range(len(own)))
    name = criterion.partition(":")[0]
    kinds = [
        ("kept by both", units - small - gone, KEPT, "o"),
        (f"goes by {name} alone", gone - small, GONE, "v"),
        ("goes by magnitude alone", small - gone, OTHER, "<"),
        ("goes by both", small & gone, INK, "x"),
    ]
    for label, chosen, colour, marker in kinds:
        points = sorted(chosen)
        axes.plot(magnitude[points], own[points], marker, color=colour, label=label)
    axes.set(xlabel="magnitude", title=f"{name} against magnitude")
    axes.margins(y=0.12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1.0)


def loss_of(model: nn.Module) -> float:
    """The loss over the data that criteria read."""
    with torch.no_grad():
        losses = [
            functional.cross_entropy(model(images), labels) for images, labels in batches()[:DATA]
        ]
    return float(torch.stack(losses).mean())


def without(model: nn.Sequential, channel: int) -> nn.Sequential:
    """A copy in which one channel of the second convolution is zero."""
    silent = copy.deepcopy(model)
    with torch.no_grad():
        silent[NORM].weight[channel] = 0.0
        silent[NORM].bias[channel] = 0.0
    return silent


def against_loss(axes: Any, criterion: str) -> None:
    """Every channel by its score and by what the loss does when it is really gone."""
    model = trained()
    own, dense = scores(model, criterion), loss_of(model)
    changes = [abs(loss_of(without(model, channel)) - dense) for channel in range(len(own))]
    gone = removed(model, criterion)
    for channel, (score, change) in enumerate(zip(own, changes, strict=True)):
        axes.plot(score, change, "o", color=GONE if channel in gone else KEPT)
    axes.set(xscale="log", yscale="log", xlabel=f"{criterion.partition(':')[0]} (orange: goes)")
    axes.xaxis.set_minor_formatter("")
    axes.set_title("Measured |Δ loss| without the channel")
    axes.grid(color=FAINT, linewidth=0.5)
