"""Regularizers: what they make of a network that trains on the digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from docs._pictures.drawing import GONE, INK, KEPT, OTHER, panels, picture
from docs._pictures.nets import batches, convolutional, train
from matplotlib.figure import Figure
from torch import Tensor, nn

import secateur as sc

EPOCHS = 4
LR = 0.05


def norms(model: nn.Sequential, reg: Any = None) -> Tensor:
    """The norm of every filter of the second convolution."""
    return model[3].weight.detach().flatten(1).norm(dim=1)


def followed(
    spec: str | None,
    note: Callable[[nn.Sequential, Any], Any],
    make: Callable[[], nn.Sequential] = convolutional,
    epochs: int = EPOCHS,
    lr: float = LR,
    decay: float = 0.0,
) -> tuple[nn.Sequential, Any, list[Any]]:
    """Train with a regularizer, or without one, and note something after every step."""
    model = make()
    reg = None if spec is None else sc.regularizer(spec, model, batches()[0][0][:1])
    notes = [note(model, reg)]
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=decay)

    def before_step() -> None:
        if reg is not None:
            reg.add_gradients()

    def after_step() -> None:
        if reg is not None:
            reg.after_step(lr)
        notes.append(note(model, reg))

    train(model, epochs, lr, before_step, after_step, optimizer)
    return model, reg, notes


def paths(axes: Any, notes: list[Tensor], title: str) -> None:
    """A line for every unit over the steps; those that end at nearly nothing in orange."""
    lines = torch.stack(notes)
    low = lines[-1] < 0.05 * lines[-1].max()
    axes.plot(lines[:, ~low], color=KEPT, linewidth=0.8, alpha=0.8)
    if low.any():
        axes.plot(lines[:, low], color=GONE, linewidth=0.8, alpha=0.8)
    axes.set(xlabel="training step", title=title)


def side_by_side(axes: Any, name: str, after: Tensor, without: Tensor, what: str) -> None:
    """Values in ascending order, with the regularizer and without it."""
    axes.plot(without.sort().values, "o-", color=OTHER, label="without", markersize=3)
    axes.plot(after.sort().values, "o-", color=KEPT, label=name, markersize=3)
    axes.set(xlabel=f"{what}, in ascending order", title="After training", ylim=(0, None))
    axes.legend(loc="upper left")


@picture("regularizers/group_lasso")
def group_lasso() -> Figure:
    figure, (left, right) = panels()

    def kernels(model: nn.Sequential, reg: Any) -> Tensor:
        return model[3].weight.detach().flatten(2).norm(dim=2).flatten()

    _, _, notes = followed("group_lasso:granularity=kernel,strength=0.04,proximal=True", kernels)
    _, _, plain = followed(None, kernels)
    some = [sizes[::12] for sizes in notes]
    paths(left, some, "group_lasso: norms of 32 of 384 kernels")
    for values, colour, label in ((plain[-1], OTHER, "without"), (notes[-1], KEPT, "group_lasso")):
        zero = float((values == 0).float().mean())
        right.plot(values.sort().values, color=colour, label=f"{label}: {zero:.0%} exactly zero")
    right.set(xlabel="kernels, in ascending order", title="After training", ylim=(0, None))
    right.legend(loc="upper left")
    return figure


@picture("regularizers/norms")
def penalties() -> Figure:
    figure, (left, right) = panels()
    grid = torch.linspace(-1, 1, 201)
    for spec, colour in (("l1:strength=0.3,proximal=True", KEPT),
                         ("l2:strength=0.3,proximal=True", GONE)):  # fmt: skip
        name = spec.partition(":")[0]
        layer = nn.Linear(201, 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(grid)
        sc.regularizer(spec, layer).after_step(1.0)
        left.plot(grid, layer.weight[0].detach(), color=colour, label=name)
        trained = spec.replace("0.3", "0.02" if name == "l1" else "0.05")
        model, _, _ = followed(trained, lambda model, reg: None)
        sizes = model[3].weight.detach().abs().flatten().sort().values
        share = float((sizes == 0).float().mean())
        right.plot(sizes, color=colour, label=f"{name}: {share:.0%} exactly zero")
    plain = followed(None, lambda model, reg: None)[0][3].weight
    right.plot(plain.detach().abs().flatten().sort().values, color=OTHER, label="without")
    left.axline((0, 0), slope=1, color=INK, linewidth=0.8, linestyle=":")
    left.set(xlabel="weight before", title="Proximal maps, ηλ = 0.3: weight after")
    left.legend(loc="upper left")
    right.set(xlabel="weights, in ascending order", title="|w| after training")
    right.legend(loc="upper left")
    return figure


@picture("regularizers/greg")
def growing() -> Figure:
    figure, (left, right) = panels()
    specs = {
        "greg1": "greg1:sparsity=0.5,delta=0.1,every=2,ceiling=3",
        "greg2": "greg2:sparsity=0.5,delta=0.1,every=2,ceiling=3,pick_delta=0.02,pick_ceiling=0.2",
    }

    def note(model: nn.Sequential, reg: Any) -> tuple[Tensor, Tensor]:
        return norms(model), reg.coefficients["3.weight"].flatten().clone()

    for name, style in (("greg1", "-"), ("greg2", "--")):
        _, reg, notes = followed(specs[name], note)
        chosen = reg.chosen["3.weight"].flatten()
        grown = torch.stack([coefficients for _, coefficients in notes])
        for which, colour, label in ((chosen, GONE, "chosen"), (~chosen, KEPT, "kept")):
            if name == "greg1":
                lines = torch.stack([sizes for sizes, _ in notes])
                left.plot(lines[:, which], color=colour, linewidth=0.8, alpha=0.8)
            right.plot(grown[:, which].mean(1), style, color=colour, label=f"{name}, {label}")
    left.set(xlabel="training step", title="greg1: norms of 24 filters; orange: chosen")
    right.set(xlabel="training step", title="Coefficients of the penalty")
    right.legend(loc="upper left")
    return figure


@picture("regularizers/group_sparsity")
def group_sparsity() -> Figure:
    figure, (left, right) = panels()
    _, _, notes = followed("group_sparsity:strength=0.01", norms)
    _, _, plain = followed(None, norms)
    model = convolutional()
    reg = sc.regularizer("group_sparsity:strength=1.0", model, batches()[0][0][:1])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    reg.add_gradients()
    factor = (model[4].weight.grad / model[4].weight).detach()
    left.plot(norms(model), factor, "o", color=KEPT)
    left.set(xlabel="norm of the channel's filter", title="group_sparsity: factor of the penalty")
    left.set_ylim(0, 17)
    side_by_side(right, "group_sparsity", notes[-1], plain[-1], "filters")
    return figure


@picture("regularizers/oto")
def oto() -> Figure:
    figure, (left, right) = panels()

    def note(model: nn.Sequential, reg: Any) -> tuple[Tensor, int]:
        return norms(model), int((norms(model) == 0).sum())

    _, _, notes = followed("oto:strength=0.15,epsilon=0.0,warmup=20", note)
    paths(left, [sizes for sizes, _ in notes], "oto: norms of 24 filters")
    right.step(range(len(notes)), [count for _, count in notes], color=GONE, where="post")
    right.axvline(20, color=INK, linewidth=0.8, linestyle=":")
    right.annotate("end of the warm-up", (20, 0), (4, 4), textcoords="offset points", fontsize=8)
    right.set(xlabel="training step", title="Filters that are exactly zero", ylim=(0, 24))
    return figure


@picture("regularizers/l0")
def l0() -> Figure:
    figure, (left, right) = panels()

    def gates(model: nn.Sequential, reg: Any) -> Tensor:
        rule = reg.computed[1].rule
        was = rule.training
        rule.eval()
        found = rule.gates().detach().flatten().clone()
        rule.train(was)
        return found

    _, reg, notes = followed("l0:strength=0.0015,droprate=0.3", gates)
    paths(left, notes, "l0: gates of 24 filters, in eval mode")
    rule = reg.computed[1].rule.train()
    torch.manual_seed(0)
    drawn = torch.stack([rule.gates().detach().flatten() for _ in range(400)])
    order = notes[-1].argsort()
    for unit, colour in ((order[0], GONE), (order[-1], KEPT)):
        right.hist(drawn[:, unit], bins=20, range=(0, 1), color=colour, alpha=0.7,
                   label=f"gate {notes[-1][unit]:.2f}")  # fmt: skip
    right.set(xlabel="gate drawn in training", title="400 draws of the lowest and the highest")
    right.legend(loc="upper center")
    return figure


@picture("regularizers/stripe")
def stripe() -> Figure:
    figure, (left, right) = panels()

    def skeleton(model: nn.Sequential, reg: Any) -> Tensor:
        return next(iter(reg.computed[1].rule.parameters())).detach().abs().clone()

    _, _, notes = followed("stripe:strength=0.0275,threshold=0.05", skeleton)
    image = notes[-1].reshape(24, 9)
    shown = left.imshow(image.T / image.max(), cmap="viridis", aspect="auto")
    shown.set_clim(0, 1)
    left.contourf(image.T == 0, levels=[0.5, 1.5], hatches=["xx"], colors="none")
    left.set(xlabel="filters", ylabel="kernel position", xticks=[], yticks=[])
    left.set_title("stripe: skeletons |I| of 24 filters")
    start, end = notes[0].flatten(), notes[-1].flatten()
    right.plot(start.sort().values, color=OTHER, label="at the start")
    zero = float((end == 0).float().mean())
    right.plot(end.sort().values, color=KEPT, label=f"after training: {zero:.0%} zero")
    right.set(xlabel="entries, in ascending order", title="|I| of the layer", ylim=(0, 1.4))
    right.legend(loc="upper left")
    return figure


@picture("regularizers/sr_ste")
def sr_ste() -> Figure:
    figure, (left, right) = panels()

    def halves(model: nn.Sequential, reg: Any) -> tuple[Tensor, Tensor]:
        # The first convolution has one input, which is no run of four, so it is left alone.
        plain, acting = reg.computed[0].plain.detach(), model[3].weight.detach()
        return plain.abs().clone(), acting != 0

    ends = {}
    for strength, colour in (("0.02", KEPT), ("0.0", OTHER)):
        _, _, notes = followed(f"sr_ste:strength={strength}", halves)
        ends[strength] = notes[-1]
        kept = torch.stack([mask.flatten() for _, mask in notes])
        label = f"λ = {float(strength):g}"
        right.plot((kept[1:] != kept[:-1]).sum(1), color=colour, label=label)
    plain, kept = ends["0.02"]
    for mask, colour, label in ((kept, KEPT, "in the mask"), (~kept, GONE, "masked")):
        left.hist(plain[mask], bins=40, range=(0, 0.4), color=colour, alpha=0.7, label=label)
    left.set(xlabel="|w|", title="sr_ste, λ = 0.02: weights behind the mask")
    left.legend(loc="upper right")
    right.set(xlabel="training step", title="Entries of the 2:4 mask that change")
    right.legend(loc="upper right")
    return figure
