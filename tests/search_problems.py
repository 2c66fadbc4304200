"""Problems with known optima for allocations that search, and the best by trying all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from secateur.allocation import Amounts, GroupScores, Problem

Cost = Callable[[Amounts], dict[str, float]]


def separable(sizes: Sequence[int], each: Sequence[float]) -> Cost:
    """Every unit of a group costs the same, whatever the others lose."""
    return lambda amounts: {
        "macs": float(sum(c * (n - a) for c, n, a in zip(each, sizes, amounts, strict=True)))
    }


def chained(sizes: Sequence[int], areas: Sequence[int], ends: tuple[int, int] = (3, 10)) -> Cost:
    """A chain of layers: what one costs is the product of the widths on its two sides."""

    def cost(amounts: Amounts) -> dict[str, float]:
        left = [n - a for n, a in zip(sizes, amounts, strict=True)]
        wide = [ends[0], *left, ends[1]]
        weights = [a * b for a, b in itertools.pairwise(wide)]
        macs = sum(count * area for count, area in zip(weights, areas, strict=True))
        return {"macs": float(macs), "params": float(sum(weights))}

    return cost


def problem(
    sizes: Sequence[int],
    cost: Cost,
    budget: dict[str, float],
    evaluate: Callable[[Amounts], float] | None = None,
    *,
    scores: Sequence[np.ndarray] | None = None,
    allowed: Sequence[np.ndarray] | None = None,
    seed: int = 0,
) -> Problem:
    """Groups of these sizes that keep one unit at least; the budget is in fractions."""
    scores = scores or [np.arange(float(size)) for size in sizes]
    groups = [GroupScores(f"g{at}", each, comparable=True) for at, each in enumerate(scores)]
    dense = cost((0,) * len(sizes))
    least = {measure: share * dense[measure] for measure, share in budget.items()}
    choices = list(allowed or [np.arange(size) for size in sizes])
    return Problem(groups, choices, cost, least, evaluate, seed)


def best(given: Problem, value: Callable[[Amounts], float]) -> tuple[float, Amounts]:
    """The highest value that meets the budget, by trying everything."""
    every = itertools.product(*(counts.tolist() for counts in given.allowed))
    return max((value(amounts), amounts) for amounts in every if given.met(amounts))


def convex(weights: Sequence[float]) -> Callable[[Amounts], float]:
    """Accuracy that falls with the square of what every group loses."""
    return lambda amounts: 1 - sum(w * a * a for w, a in zip(weights, amounts, strict=True)) / 1000


def net() -> tuple[nn.Module, Tensor]:
    """Two convolutions, of which the second matters far more to `favours`, and a head."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    return model, torch.randn(2, 3, 8, 8)


def favours(model: nn.Module) -> float:
    """Accuracy of a model: every channel of its second convolution is worth ten of its first."""
    first, second = (m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    return (first + 10 * second) / 176


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that the model holds."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether every weight is what it was, bit for bit."""
    now = model.state_dict()
    return now.keys() == before.keys() and all(
        tensor.shape == before[name].shape and torch.equal(tensor, before[name])
        for name, tensor in now.items()
    )
