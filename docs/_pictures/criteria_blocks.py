"""Criteria that came with language models: of whole blocks, and of what a bias can replace."""

from __future__ import annotations

import torch
from docs._pictures.drawing import GONE, KEPT, OTHER, panels, picture
from docs._pictures.nets import Block, batches, trained
from docs._pictures.units import DATA, against_loss, loss_of
from matplotlib.figure import Figure
from torch import nn

import secateur as sc

BLOCKS = 6


def _deep() -> nn.Sequential:
    """A stem, six blocks on one residual stream, and a linear layer, untrained."""
    torch.manual_seed(0)
    blocks = [Block(12, 12) for _ in range(BLOCKS)]
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        nn.Sequential(*blocks),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


def _shallower(criterion: str, left: float) -> nn.Module:
    """The trained network with so much of its parameters."""
    model = trained(_deep)
    sc.prune(
        model,
        batches()[0][0][:1],
        granularity="layer",
        criterion=criterion,
        budget={"params": left},
        data=batches()[:DATA],
    )
    return model


@picture("criteria/block_influence")
def block_influence() -> Figure:
    from secateur.depth import BlockInfluence, Passing
    from secateur.graph.blocks import blocks
    from secateur.graph.trace import record
    from secateur.inputs import as_inputs
    from secateur.observing.reading import Reading

    model = trained(_deep)
    x = as_inputs(batches()[0][0][:1])
    recorded = record(model, x)
    found = blocks(model, recorded)
    graph = sc.Graph(model, recorded)
    passing = Passing(model, graph, found, Reading(model, batches()[:DATA], x))
    figure, (left, right) = panels()
    left.bar(range(1, BLOCKS + 1), BlockInfluence().scores(passing), color=KEPT)
    left.set(title="block_influence", xlabel="block", xticks=range(1, BLOCKS + 1))
    share = sum(p.numel() for p in model[1][0].parameters())
    total = sum(p.numel() for p in model.parameters())
    counts = range(BLOCKS)
    for name, colour, marker in (
        ("block_influence", KEPT, "o"), ("angular", OTHER, "s"), ("deepest", GONE, "v"),
    ):  # fmt: skip
        losses = [loss_of(model)] + [
            loss_of(_shallower(name, 1 - count * share / total)) for count in counts if count
        ]
        right.plot(counts, losses, f"-{marker}", color=colour, label=name)
    right.set(title="Loss without blocks, no training", xlabel="blocks left out", yscale="log")
    right.legend()
    return figure


@picture("criteria/flap")
def flap() -> Figure:
    figure, (left, right) = panels()
    against_loss(left, "flap")
    losses = {"dense": loss_of(trained())}
    for name, criterion in (("flap, no bias", "flap:bias=off"), ("flap", "flap")):
        model = trained()
        sc.prune(
            model,
            batches()[0][0][:1],
            criterion=criterion,
            allocation="uniform",
            budget={"macs": 0.5},
            data=batches()[:DATA],
        )
        losses[name] = loss_of(model)
    bars = right.bar(list(losses), list(losses.values()), color=[OTHER, GONE, KEPT])
    right.bar_label(bars, fmt="%.2f")
    right.set(title="Loss at half the MACs, no training")
    right.margins(y=0.2)
    return figure
