"""Granularities: a weight with the borders of its units, and what stays of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from docs._pictures.drawing import INK, KEPT, panels, picture
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.attached import as_units, find_targets

# Page -> granularity, the granularity whose units get borders, and sparsity.
LINEAR = {
    "element": ("element", "element", 0.75),
    "vector": ("vector:4", "vector:4", 0.75),
    "run": ("run:4", "run:4", 0.75),
    "block": ("block:4x4", "block:4x4", 0.75),
    "nm": ("2:4", "run:4", None),
    "transposable": ("2:4:transposable", "block:4x4", None),
    "hierarchical": ("vector:4/2:4", "vector:4", 0.75),
}
CONV = {
    "row": ("row", "row", 0.7),
    "kernel": ("kernel", "kernel", 0.7),
    "stripe": ("stripe", "stripe", 0.7),
    "shape": ("shape", "shape", 0.7),
    "pattern": ("pattern:4", "kernel", 0.7),
}


def linear() -> tuple[nn.Module, Tensor]:
    """Sixteen outputs, twenty-four inputs."""
    return nn.Sequential(nn.Linear(24, 16, bias=False)), torch.zeros(1, 24)


def conv() -> tuple[nn.Module, Tensor]:
    """Six outputs, eight inputs, kernels of 3 by 3."""
    return nn.Sequential(nn.Conv2d(8, 6, 3, bias=False)), torch.zeros(1, 8, 5, 5)


def flat(canonical: Tensor) -> Tensor:
    """A weight as a picture: one output below the other, one input beside the other."""
    if canonical.ndim == 2:
        return canonical
    return canonical.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)


def borders(units: Tensor, **options: Any) -> PathPatch:
    """Lines between neighbours that belong to different units."""
    framed = functional.pad(units[None, None].double(), (1, 1, 1, 1), value=-1)[0, 0]
    lines = []
    for axis, turned in enumerate((framed, framed.T)):
        apart = turned[1:] != turned[:-1]
        for along, row in enumerate(apart[:, 1:-1]):
            ends = functional.pad(row.int(), (1, 1)).diff().nonzero().flatten()
            for start, stop in ends.view(-1, 2).tolist():
                line = [(start, along), (stop, along)]
                lines.append([(y, x) for x, y in line] if axis else line)
    path = Path.make_compound_path(*map(Path, lines))
    return PathPatch(path, facecolor="none", edgecolor=INK, **options)


def shaded(axes: Any, values: Tensor, colour: str) -> None:
    """Cells whose strength is the size of the value."""
    rgba = torch.zeros(*values.shape, 4)
    rgba[..., :3] = torch.tensor(to_rgb(colour))
    rgba[..., 3] = values
    axes.pcolorfast(rgba.numpy())


def draw(make: Callable[[], tuple[nn.Module, Tensor]], name: str, units: str, sparsity: Any):
    torch.manual_seed(3)
    model, inputs = make()
    weight = model[0].weight
    with torch.no_grad():  # rows and columns that differ, as in a trained layer
        weight.normal_().mul_(torch.rand(weight.shape[0], *[1] * (weight.ndim - 1)) + 0.5)
        weight.mul_(torch.rand(1, *weight.shape[1:]) + 0.3)
    dense = flat(weight.detach().abs())
    budget = None if sparsity is None else {"sparsity": sparsity}
    mask = sc.prune(model, inputs, granularity=name, budget=budget).plan.masks["0.weight"]
    (target,), _ = find_targets(make()[0], as_units(units), ())
    tiling = target.tiling
    owners = flat(tiling.spread(torch.arange(tiling.count).view(tiling.grid)))
    figure, (before, after) = panels()
    strength = (dense / dense.max()).sqrt()
    kept = flat(mask)
    shaded(before, strength, INK)
    shaded(after, strength * kept, KEPT)
    for axes in (before, after):
        axes.add_patch(borders(owners, linewidth=0.5))
        if weight.ndim > 2:
            corners = weight[:, :, :1, :1]
            kernels = torch.arange(corners.numel()).view_as(corners).expand_as(weight)
            axes.add_patch(borders(flat(kernels), linewidth=1.2))
        axes.set(xlim=(0, owners.shape[1]), ylim=(owners.shape[0], 0), xticks=[], yticks=[])
        axes.set_aspect("equal")
        axes.spines[:].set_visible(False)
        axes.set_xlabel("inputs, kernels laid out" if weight.ndim > 2 else "inputs")
    before.set_ylabel("outputs")
    before.set_title("|w|, with the borders of units")
    after.set_title(f"{name}: {1 - kept.float().mean():.0%} zeros, left empty")
    return figure


def register(page: str, *arguments: Any) -> None:
    """The picture of one granularity."""

    @picture(f"granularities/{page}")
    def _() -> Figure:
        return draw(*arguments)


for page, known in LINEAR.items():
    register(page, linear, *known)
for page, known in CONV.items():
    register(page, conv, *known)
