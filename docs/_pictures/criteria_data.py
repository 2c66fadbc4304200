"""Criteria that read data."""

from __future__ import annotations

import copy

import torch
from docs._pictures.drawing import GONE, INK, KEPT, OTHER, panels, picture
from docs._pictures.nets import batches, dense, trained
from docs._pictures.units import (
    CONV,
    DATA,
    NORM,
    RELU,
    against_loss,
    against_magnitude,
    ranked,
    removed,
    scores,
)
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc


def of_the_loss(name: str) -> None:
    """The picture of a criterion that estimates what a channel does to the loss."""

    @picture(f"criteria/{name}")
    def _() -> Figure:
        figure, (left, right) = panels()
        against_loss(left, name)
        against_magnitude(right, name)
        return figure


def of_activations(name: str, what: str) -> None:
    """The picture of a criterion that looks at activations."""

    @picture(f"criteria/{name}")
    def _() -> Figure:
        figure, (left, right) = panels()
        model = trained()
        ranked(left, scores(model, name), removed(model, name), f"{name}: {what}")
        against_magnitude(right, name)
        return figure


for each in ("taylor", "taylor_activation", "gradient", "snip", "head_importance"):
    of_the_loss(each)
of_activations("apoz", "share of activations above zero")
of_activations("mean_activation", "mean absolute activation")


@picture("criteria/obd")
def obd() -> Figure:
    torch.manual_seed(0)
    inputs = torch.randn(256, 2) * torch.tensor([0.5, 1.5])
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    best = torch.tensor([[1.6, 0.7]])
    with torch.no_grad():
        model[0].weight.copy_(best)
    targets = model(inputs).detach() + 0.3 * torch.randn(256, 1)
    figure, (left, right) = panels()
    span = torch.linspace(-0.4, 2.2, 60), torch.linspace(-0.5, 1.5, 60)
    grid = torch.cartesian_prod(*span)
    losses = (inputs @ grid.T - targets).square().mean(0).view(60, 60)
    left.contour(*span, losses.T, levels=12, colors=INK, linewidths=0.6, alpha=0.7)
    for name, colour, shift in (("obd", KEPT, (6, -12)), ("magnitude", GONE, (6, 6))):
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
        left.annotate(name, end, shift, textcoords="offset points", color=colour)
    left.set(xlabel="first weight, inputs small", ylabel="second weight, inputs large")
    left.set_title("obd: the loss as hills, and which weight goes")
    against_loss(right, "obd")
    return figure


FAINTER = 1e-3


def flow(model: nn.Module) -> float:
    """The squared norm of the gradient over the data."""
    losses = [functional.cross_entropy(model(x), labels) for x, labels in batches()[:DATA]]
    gradients = torch.autograd.grad(torch.stack(losses).mean(), list(model.parameters()))
    return float(sum(gradient.square().sum() for gradient in gradients))


def fainter(model: nn.Sequential, channel: int) -> nn.Sequential:
    """A copy in which everything that makes or reads one channel is a little smaller."""
    model = copy.deepcopy(model)
    rows = [model[CONV].weight, model[CONV].bias, model[NORM].weight, model[NORM].bias]
    with torch.no_grad():
        for tensor in rows:
            tensor[channel] *= 1 - FAINTER
        model[-1].weight[:, 4 * channel : 4 * channel + 4] *= 1 - FAINTER
    return model


@picture("criteria/grasp")
def grasp() -> Figure:
    figure, (left, right) = panels()
    model = trained()
    own, before = scores(model, "grasp"), flow(model)
    slopes = [(flow(fainter(model, unit)) - before) / FAINTER for unit in range(len(own))]
    gone = removed(model, "grasp")
    colours = [GONE if unit in gone else KEPT for unit in range(len(own))]
    left.scatter(own, slopes, c=colours, s=22)
    left.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    left.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    left.set(title="Measured slope of |g|² as the channel fades", xlabel="grasp (orange: goes)")
    against_magnitude(right, "grasp")
    return figure


@picture("criteria/wanda")
def wanda() -> Figure:
    figure, (left, right) = panels()
    kept = {}
    for name in ("wanda", "magnitude"):
        kept[name] = sc.prune(
            trained(dense),
            batches()[0][0][:1],
            granularity="element",
            criterion=name,
            allocation="uniform",
            budget={"sparsity": 0.5},
            data=batches()[:DATA],
        ).plan.masks["3.weight"]
    model = trained(dense)
    with torch.no_grad():
        inputs = torch.cat([model[:3](images) for images, _ in batches()[:DATA]])
    norms, row = inputs.norm(dim=0), 4
    weights = model[3].weight[row].detach().abs()
    for mask, colour, label in (
        (kept["wanda"][row], KEPT, "kept"),
        (~kept["wanda"][row], GONE, "goes"),
    ):
        left.plot(norms[mask], weights[mask], "o", color=colour, label=label)
    smallest = weights[kept["magnitude"][row]].min()
    left.axhline(smallest, color=INK, linewidth=0.8, linestyle=":")
    left.set(xlabel="norm of the input ‖x‖", title="wanda: weights |w| of one output")
    left.annotate("magnitude: all above stay", (norms.max(), smallest), (0, 3), ha="right",
                  textcoords="offset points", fontsize=8)  # fmt: skip
    left.legend(loc="upper right")
    order = norms.argsort()
    for name, colour in (("wanda", KEPT), ("magnitude", OTHER)):
        right.plot(kept[name].sum(0)[order], "o-", color=colour, label=name, linewidth=0.8)
    right.set(xlabel="inputs, by their norm", title="Outputs, of 32, that keep an input", xticks=[])
    right.legend(loc="upper left")
    return figure


def maps_of(model: nn.Sequential, images: Tensor) -> Tensor:
    """What the second ReLU lets through."""
    with torch.no_grad():
        return model[: RELU + 1](images)


@picture("criteria/hrank")
def hrank() -> Figure:
    figure, (left, right) = panels(width_ratios=[1.5, 1])
    model = trained()
    own = scores(model, "hrank")
    rows = [int(own.argmin()), int(own.argmax())]
    maps = maps_of(model, batches()[0][0][:6])[:, rows]
    tiles = functional.pad(maps, (0, 1, 0, 1), value=float("nan"))
    image = tiles.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)[:-1, :-1]
    left.imshow(image / maps.max(), cmap="viridis")
    left.set(xticks=[], title="hrank: maps of two channels, six digits")
    left.set_yticks([3.5, 12.5], [f"rank\n{own[unit]:.1f}" for unit in rows])
    left.tick_params(length=0)
    left.spines[:].set_visible(False)
    against_magnitude(right, "hrank")
    return figure
