"""The sensitivity scan: curves of damage, and what one tolerance lets every layer lose."""

from __future__ import annotations

import numpy as np
from docs._pictures.allocations import BUDGET, kept
from docs._pictures.drawing import GONE, INK, KEPT, OTHER, panels, picture
from docs._pictures.nets import batches, trained
from matplotlib.figure import Figure

import secateur as sc
from secateur.allocation import SensitivityScan
from secateur.data import load_digits

COLOURS = (KEPT, OTHER, GONE)


@picture("allocations/sensitivity")
def _() -> Figure:
    model, example = trained(), batches()[0][0][:1]
    held_out = sc.Evaluation(load_digits(size=8).val.batches(256))
    ratios = np.arange(0.05, 1, 0.05).tolist()
    table = sc.sensitivity(model, example, held_out, granularity="element", ratios=ratios)
    masks = sc.prune(
        model,
        example,
        granularity="element",
        allocation=SensitivityScan(table=table),
        budget={"sparsity": BUDGET},
    ).plan.masks
    names = [f"{'linear' if curve.size == 960 else 'conv'}, {curve.size:,}" for curve in table]
    figure, (curves, entries) = panels()
    for curve, colour, name in zip(table, COLOURS, names, strict=True):
        shares, damage = [0.0, *curve.ratios], [0.0, *(100 * curve.damage)]
        curves.step([100 * share for share in shares], damage, where="pre", color=colour,
                    label=name)  # fmt: skip
        zeros = float((~masks[curve.name]).float().mean())
        reached = 100 * curve.tolerance_of(np.array([zeros * curve.size]))[0]
        curves.plot(100 * zeros, reached, "o", color=colour)
    curves.set(title="sensitivity: points lost against zeros, %", ylim=(-1, 40))
    curves.legend(loc="upper left")
    places = np.arange(len(names))
    left = [int(masks[curve.name].sum()) for curve in table]
    entries.bar(places - 0.18, left, width=0.36, color=KEPT)
    entries.bar(places + 0.18, [n for _, n in kept("uniform").values()], width=0.36,
                facecolor="none", edgecolor=INK)  # fmt: skip
    entries.legend(["sensitivity", "uniform"], loc="upper right")
    entries.set_xticks(places, [name.replace(", ", "\n") for name in names])
    entries.tick_params(axis="x", length=0)
    entries.set(title=f"Weights that stay, {BUDGET:.0%} zeros in all")
    return figure
