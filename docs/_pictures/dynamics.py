"""Dynamic methods: what they move while a network trains on the digits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from docs._pictures.drawing import GONE, INK, KEPT, OTHER, panels, picture
from docs._pictures.nets import dense, train
from matplotlib.figure import Figure
from torch import Tensor, nn

import secateur as sc

EPOCHS = 4
STEPS = 80


class Run:
    """A training with a dynamic method, and what was noted after every step."""

    def __init__(
        self,
        spec: str,
        make: Callable[[], nn.Sequential] = dense,
        note: Callable[[Any, nn.Sequential], Any] = lambda method, model: None,
    ) -> None:
        self.model = make()
        self.start = [weight.detach().clone() for weight in self.model.parameters()]
        self.method = sc.dynamic_sparsity(spec, self.model)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.method.optimizer = optimizer
        self.zeros = [self._zeros()]
        self.notes: list[Any] = [note(self.method, self.model)]

        def after_step() -> None:
            self.method.step()
            self.zeros.append(self._zeros())
            self.notes.append(note(self.method, self.model))

        train(self.model, EPOCHS, 0.05, self.method.add_gradients, after_step, optimizer)

    def _zeros(self) -> Tensor:
        return torch.cat([zeros.flatten() for zeros in self.method.zeros.values()])

    def moved(self, axes: Any, unit: str, back: str = "comes back", first: int = 0) -> None:
        """What became zero in each step after the first ones, and what came back."""
        pairs = list(itertools.pairwise(self.zeros[first:]))
        gone = [int((after & ~before).sum()) for before, after in pairs]
        grown = [int((before & ~after).sum()) for before, after in pairs]
        steps = range(first + 1, first + len(pairs) + 1)
        axes.bar(steps, grown, width=0.9, color=KEPT, label=back)
        axes.bar(steps, [-count for count in gone], width=0.9, color=GONE, label="becomes zero")
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="training step", title=f"{unit} that change")
        axes.margins(y=0.25)
        axes.legend(loc="upper right", ncols=2)

    def sparsity(self, axes: Any) -> None:
        """The share of zeros after every step."""
        axes.plot([100 * float(zeros.float().mean()) for zeros in self.zeros], color=KEPT)
        axes.set(xlabel="training step", ylim=(0, 100))
        axes.set_title(f"{self.method.name}: sparsity, %")

    def turnover(self, axes: Any) -> None:
        """How many of the first weights are still there, and how many ever were."""
        zeros = torch.stack(self.zeros)
        count = float((~zeros[0]).sum())
        still = (~zeros & ~zeros[0]).sum(1) / count
        ever = (~zeros).int().cummax(0).values.sum(1) / count
        axes.plot(100 * ever, color=KEPT, label="were there at some time")
        axes.plot(100 * still, color=OTHER, label="of the first, still there")
        axes.axhline(100, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlabel="training step", ylim=(0, 140 * float(ever.max())))
        axes.set_title(f"{self.method.name}: weights, % of those allowed")
        axes.legend(loc="upper left")


@picture("schedules/soft_filter")
def soft_filter() -> Figure:
    figure, (left, right) = panels()

    def norms(method: Any, model: nn.Sequential) -> Tensor:
        return model[3].weight.detach().norm(dim=1)

    run = Run("soft_filter:sparsity=0.3,every=20", note=norms)
    paths = torch.stack(run.notes)
    touched = (paths[1:] == 0).any(0)
    left.plot(paths[:, ~touched], color=KEPT, linewidth=0.8, alpha=0.6)
    left.plot(paths[:, touched], color=GONE, linewidth=1.2)
    left.set(xlabel="training step", title="soft_filter: norms of 32 units, orange: zeroed")
    run.moved(right, "Chosen filters", "no longer chosen")
    return figure


@picture("schedules/network_surgery")
def network_surgery() -> Figure:
    figure, (left, right) = panels()
    run = Run("network_surgery:c=0.5")
    run.sparsity(left)
    run.moved(right, "Weights, after the first step,", first=1)
    return figure


@picture("schedules/rigl")
def rigl() -> Figure:
    figure, (left, right) = panels()
    run = Run(f"rigl:sparsity=0.8,steps={STEPS},every=4")
    run.turnover(left)
    run.moved(right, "Weights", "grows")
    return figure


@picture("schedules/set")
def sparse_evolution() -> Figure:
    figure, (left, right) = panels()
    run = Run("set:sparsity=0.8,every=4")
    run.turnover(left)
    run.moved(right, "Weights", "grows")
    return figure


@picture("schedules/movement")
def movement() -> Figure:
    figure, (left, right) = panels()
    run = Run(f"movement:sparsity=0.8,steps={STEPS}")
    run.sparsity(left)
    layer = run.method.computed[1]
    before, after = run.start[2], layer.plain.detach()
    gone = run.method.zeros[layer.target.name]
    right.plot(before[gone], after[gone], ".", color=GONE, markersize=4, label="goes")
    right.plot(before[~gone], after[~gone], ".", color=KEPT, markersize=5, label="stays")
    right.axline((0, 0), slope=1, color=INK, linewidth=0.8, linestyle=":")
    right.set(xlabel="weight before training", title="Weight after training")
    right.legend(loc="upper left")
    return figure


@picture("schedules/admm")
def admm() -> Figure:
    figure, (left, right) = panels()

    def removable(method: Any, model: nn.Sequential) -> float:
        sizes = model[3].weight.detach().flatten().abs().sort().values
        return float(sizes[: len(sizes) * 4 // 5].norm() / sizes.norm())

    for rho, colour in ((0.1, KEPT), (0.0, OTHER)):
        run = Run(f"admm:sparsity=0.8,rho={rho},every=10", note=removable)
        left.plot(run.notes, color=colour, label=f"ρ = {rho:g}")
        sizes = run.model[3].weight.detach().abs().flatten()
        right.plot(sizes.sort().values, color=colour, label=f"ρ = {rho:g}")
    left.set(xlabel="training step", title="admm: share of ‖W‖ in the smallest 80 %", ylim=(0, 1))
    left.legend(loc="lower left")
    right.axvline(0.8 * len(sizes), color=INK, linewidth=0.8, linestyle=":")
    right.set(xlabel="weights by size; 80 % left of the line go", title="|w| before the cut")
    right.legend(loc="upper left")
    return figure
