"""Regularizers that press on one factor of every channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from docs._pictures.drawing import KEPT, OTHER, panels, picture
from docs._pictures.nets import batches, convolutional, normless
from docs._pictures.regularizers import followed, paths, side_by_side
from matplotlib.figure import Figure
from torch import Tensor, nn

import secateur as sc


def scales(model: nn.Sequential, reg: Any = None) -> Tensor:
    """The size of every batch-norm scale."""
    return torch.cat([model[1].weight, model[4].weight]).detach().abs()


def pressed(page: str, spec: str, make: Callable[[], nn.Sequential]) -> None:
    """The picture of a regularizer that presses on batch-norm scales."""

    @picture(f"regularizers/{page}")
    def _() -> Figure:
        figure, (left, right) = panels()
        _, _, notes = followed(spec, scales, make)
        _, _, plain = followed(None, scales, make)
        paths(left, notes, f"{page}: |γ| of 40 channels")
        side_by_side(right, page, notes[-1], plain[-1], "scales")
        return figure


def halved() -> nn.Sequential:
    """The network with every batch-norm scale at a half, where polarization starts."""
    model = convolutional()
    for norm in (model[1], model[4]):
        nn.init.constant_(norm.weight, 0.5)
    return model


pressed("slimming", "slimming:strength=0.4,proximal=True", convolutional)
pressed("polarization", "polarization:strength=0.02", halved)


@picture("regularizers/scaling")
def scaling() -> Figure:
    figure, (left, right) = panels()
    images = batches()[0][0][:32]

    def factors(model: nn.Sequential, reg: Any) -> Tensor:
        return torch.cat(reg.parameters()).detach().abs() if reg else torch.empty(0)

    ways = ((None, "magnitude", OTHER), ("scaling:strength=0.13,proximal=True", "scale", KEPT))
    for spec, criterion, colour in ways:
        model, reg, notes = followed(spec, factors, normless, epochs=6, lr=0.1, decay=1e-4)
        before = model(images).detach().flatten()
        sc.prune(model, images[:1], criterion=criterion, budget={"macs": 0.5})
        label = f"without, cut by {criterion}"
        if reg is not None:
            zero = int((notes[-1] == 0).sum())
            paths(left, notes, f"scaling: |s| of 40 channels, {zero} end at zero")
            reg.finish()
            label = f"with scaling, cut by {criterion}"
        change = model(images).detach().flatten() - before
        right.plot(before, change, ".", color=colour, markersize=4, label=label)
    right.set(xlabel="output before", title="Change of outputs when half the MACs go")
    right.margins(y=0.25)
    right.legend(loc="upper left")
    return figure
