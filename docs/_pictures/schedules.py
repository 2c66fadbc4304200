"""Schedules: the sparsity after every step, and what one step removes."""

from __future__ import annotations

import itertools

from docs._pictures.drawing import FAINT, GONE, INK, KEPT, panels, picture
from matplotlib.figure import Figure

from secateur.schedules import as_schedule

NAMES = ("one_shot", "iterative", "linear", "agp", "asfp")
STEPS = 10


def draw(name: str) -> Figure:
    figure, (curve, each) = panels()
    steps = range(STEPS + 1)
    for other in NAMES:
        schedule = as_schedule(f"{other}:target=0.9,steps={STEPS}")
        values = [100 * schedule.sparsity(step) for step in steps]
        if other == name:
            curve.plot(steps, values, color=KEPT, marker="o", zorder=3)
            removed = [after - before for before, after in itertools.pairwise(values)]
            bars = each.bar(steps[1:], removed, width=0.7, color=GONE)
            each.bar_label(bars, fmt="%.0f", padding=1, fontsize=8, color=INK)
        else:
            curve.plot(steps, values, color=FAINT)
    each.margins(y=0.1)
    curve.set(ylim=(0, 100), xlabel="step", title=f"{name}: sparsity, % (others faint)")
    each.set(xlabel="step", xticks=steps[1:], title="Weights that go in each step, % of all")
    return figure


def register(name: str) -> None:
    """The picture of one schedule."""

    @picture(f"schedules/{name}")
    def _() -> Figure:
        return draw(name)


for each in NAMES:
    register(each)
