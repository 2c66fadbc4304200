"""A picture of measured times: a bar for every line, with its spread."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from secateur.bench.results import Benchmark, Line
from secateur.errors import InputError
from secateur.report.figures.theme import Palette, canvas, palette_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

BAR, HEAD = 0.24, 0.62


def draw(benchmark: Benchmark, *, theme: str = "light", width: float = 6.4) -> Figure:
    """Draw the times of a benchmark: a panel for all that took turns, a bar for each of them.

    Bars are medians, thin lines reach from the lower to the upper quartile, the fastest bar of a
    panel is filled.

    Parameters
    ----------
    benchmark : Benchmark
    theme : str, default "light"
        ``"light"`` or ``"dark"``.
    width : float, default 6.4
        Inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        Where nothing was timed.
    MissingExtraError
        Where matplotlib is not installed: the extra ``report``.
    """
    if not benchmark.lines:
        raise InputError("there is nothing to draw: nothing was timed")
    panels = [
        (together, list(lines))
        for together, lines in itertools.groupby(benchmark.lines, lambda line: line.together)
    ]
    heights = [BAR * len(lines) + HEAD for _, lines in panels]
    colours = palette_of(theme)
    with canvas(
        width,
        sum(heights) + 0.2,
        colours,
        gaps=(0.04, 0.05),
        nrows=len(panels),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    ) as (figure, axes):
        for (together, lines), axis in zip(panels, axes[:, 0], strict=True):
            _panel(axis, together, lines, benchmark.fastest()[together], colours)
        axes[-1, 0].set_xlabel("milliseconds a batch")
        figure.supxlabel(str(benchmark.machine), fontsize=7.5, color=colours.muted)
        return figure


def _panel(
    axis: Any, together: tuple[int, int], lines: list[Line], fastest: Line, colours: Palette
) -> None:
    medians = [line.timing.median_ms for line in lines]
    halves = [line.timing.spread_ms / 2 for line in lines]
    places = range(len(lines))
    axis.barh(
        places,
        medians,
        height=0.66,
        color=[colours.after if line == fastest else colours.faint for line in lines],
        edgecolor=[colours.after if line == fastest else colours.before for line in lines],
        linewidth=0.8,
        xerr=[[min(half, median) for half, median in zip(halves, medians, strict=True)], halves],
        error_kw={"elinewidth": 0.8, "ecolor": colours.muted, "capsize": 2},
    )
    for place, median, half in zip(places, medians, halves, strict=True):
        axis.annotate(
            f"{median:.3g}",
            (median + half, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colours.ink,
        )
    axis.set_yticks(places, [f"{line.model} · {line.runtime} · {line.dtype}" for line in lines])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.18 * max(m + h for m, h in zip(medians, halves, strict=True)))
    batch, threads = together
    axis.set_title(f"batch {batch}, {threads} thread{'' if threads == 1 else 's'}")
    axis.xaxis.grid(True)
    axis.spines["left"].set_visible(False)
