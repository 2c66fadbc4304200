"""Allocations that try models out: what they try, and what they come to."""

from __future__ import annotations

import itertools

import numpy as np
from docs._pictures.drawing import GONE, INK, KEPT, panels, picture
from matplotlib.figure import Figure

from secateur.allocation import AMC, Amounts, GroupScores, Problem, Uniform

SIZES = (32, 32, 32)
MATTERS = (4.0, 1.0, 0.25)
BUDGET, EPISODES, WARMUP = 0.5, 150, 50


def cost(amounts: Amounts) -> dict[str, float]:
    """Multiply-accumulates of a chain of layers."""
    left = [3, *(size - gone for size, gone in zip(SIZES, amounts, strict=True)), 10]
    return {"macs": float(sum(a * b for a, b in itertools.pairwise(left)))}


@picture("allocations/amc")
def amc() -> Figure:
    tried: list[float] = []

    def evaluate(amounts: Amounts) -> float:
        lost = zip(MATTERS, amounts, SIZES, strict=True)
        tried.append(1 - sum(m * (gone / size) ** 2 for m, gone, size in lost) / sum(MATTERS))
        return tried[-1]

    groups = [GroupScores(str(at), np.arange(1.0, size + 1)) for at, size in enumerate(SIZES)]
    allowed = [np.arange(size) for size in SIZES]
    budget = {"macs": BUDGET * cost((0,) * len(SIZES))["macs"]}
    problem = Problem(groups, allowed, cost, budget, evaluate)
    figure, (values, shares) = panels()
    found = {"amc": AMC(EPISODES, WARMUP).amounts(problem), "uniform": Uniform().amounts(problem)}
    values.plot(tried, ".", color=KEPT, markersize=3)
    values.axvline(WARMUP, color=INK, linewidth=0.8, linestyle=":")
    values.set(title="amc: value of each episode's model", xlabel="episode")
    places = range(len(SIZES))
    for label, offset, style in (
        ("amc", -0.18, {"color": KEPT}),
        ("uniform", 0.18, {"facecolor": "none", "edgecolor": INK}),
    ):
        left = [size - gone for size, gone in zip(SIZES, found[label], strict=True)]
        shares.bar([place + offset for place in places], left, width=0.36, label=label, **style)
    shares.axhline(SIZES[0], color=GONE, linewidth=0.8, linestyle=":")
    shares.set_xticks(places, [f"matters\n{matters:g}" for matters in MATTERS])
    shares.legend(loc="upper right")
    shares.set(title="Units that stay, of 32", ylim=(0, 44))
    return figure
