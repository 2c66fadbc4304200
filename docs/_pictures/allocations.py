"""Allocations: what every layer loses under one budget."""

from __future__ import annotations

from docs._pictures.drawing import GONE, INK, KEPT, panels, picture
from docs._pictures.nets import batches, trained
from matplotlib.figure import Figure

import secateur as sc

BUDGET = 0.8
PAGES = {"uniform": "uniform", "global": "global", "lamp": "lamp", "erk": "erk",
         "uniform_plus": "uniform+"}  # fmt: skip


def kept(allocation: str) -> dict[str, tuple[int, int]]:
    """Entries of every weight, and how many of them stay."""
    model = trained()
    result = sc.prune(
        model,
        batches()[0][0][:1],
        granularity="element",
        allocation=allocation,
        budget={"sparsity": BUDGET},
    )
    return {name: (mask.numel(), int(mask.sum())) for name, mask in result.plan.masks.items()}


def draw(allocation: str) -> Figure:
    reference = "global" if allocation == "uniform" else "uniform"
    found, other = kept(allocation), kept(reference)
    names = [f"{'conv' if total != 960 else 'linear'}\n{total:,}" for total, _ in found.values()]
    figure, (shares, entries) = panels()
    places = range(len(found))
    zeros = [100 * (1 - left / total) for total, left in found.values()]
    bars = shares.bar(places, zeros, width=0.6, color=GONE)
    shares.bar_label(bars, fmt="%.0f", padding=1, fontsize=8, color=INK)
    shares.axhline(100 * BUDGET, color=INK, linewidth=0.8, linestyle=":")
    shares.set(ylim=(0, 112), yticks=[0, 50, 100], title=f"{allocation}: zeros of each layer, %")
    wide = [place - 0.18 for place in places]
    entries.bar(wide, [left for _, left in found.values()], width=0.36, color=KEPT)
    entries.bar([place + 0.18 for place in places], [left for _, left in other.values()],
                width=0.36, facecolor="none", edgecolor=INK)  # fmt: skip
    entries.legend([allocation, reference], loc="upper right")
    entries.set(title="Weights that stay")
    for axes in (shares, entries):
        axes.set_xticks(places, names)
        axes.tick_params(axis="x", length=0)
    return figure


def register(page: str, allocation: str) -> None:
    """The picture of one allocation."""

    @picture(f"allocations/{page}")
    def _() -> Figure:
        return draw(allocation)


for page, allocation in PAGES.items():
    register(page, allocation)
