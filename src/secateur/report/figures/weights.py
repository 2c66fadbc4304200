"""How the weights spread, before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from secateur.report.content import Histogram
from secateur.report.figures.theme import AFTER, BEFORE, canvas, svg

__all__ = ["draw_weights"]

_COLUMNS = 4


def draw_weights(histograms: Sequence[Histogram]) -> str:
    """Small multiples: before as an outline, after as a filled shape, numbers of weights."""
    lines = math.ceil(len(histograms) / _COLUMNS)
    columns = min(len(histograms), _COLUMNS)
    size = (9.6, 0.2 + 1.45 * lines)
    with canvas(*size, gaps=(0.06, 0.08), nrows=lines, ncols=columns, squeeze=False) as (
        figure,
        grid,
    ):
        for axes, each in zip(grid.flat, histograms, strict=False):
            axes.stairs(each.after, each.edges, fill=True, color=AFTER, alpha=0.75, label="after")
            axes.stairs(each.before, each.edges, color=BEFORE, linewidth=1.1, label="before")
            axes.set_title(each.name, fontsize=8, pad=3)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            limit = float(np.abs(each.edges).max())
            axes.set_xlim(-limit, limit)
            half = f"{limit / 2:.2g}"
            axes.set_xticks([-limit / 2, 0, limit / 2], [f"−{half}", "0", half])
        for axes in list(grid.flat)[len(histograms) :]:
            axes.set_visible(False)
        return svg(figure, "weights")
