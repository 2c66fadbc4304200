"""Channels kept per layer."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.report.content import Width
from secateur.report.figures.theme import AFTER, FAINT, INK, MUTED, canvas, svg

__all__ = ["MOST_LAYERS", "draw_widths"]

MOST_LAYERS = 60


def draw_widths(widths: Sequence[Width]) -> str:
    """Bars of what is kept on tracks of what there was; at most 60 layers, those that lost most."""
    shown = list(widths)
    if len(shown) > MOST_LAYERS:
        most = sorted(shown, key=lambda each: each.after - each.before)[:MOST_LAYERS]
        chosen = {each.layer for each in most}
        shown = [each for each in shown if each.layer in chosen]
    rows = range(len(shown))
    before, after = [each.before for each in shown], [each.after for each in shown]
    with canvas(7.6, 0.5 + 0.235 * len(shown)) as (figure, axes):
        axes.barh(rows, before, height=0.62, color=FAINT)
        axes.barh(rows, after, height=0.62, color=AFTER)
        largest = max(before)
        for row, each in zip(rows, shown, strict=True):
            axes.text(
                each.before + 0.012 * largest,
                row,
                f"{each.after} of {each.before}" if each.after < each.before else f"{each.after}",
                va="center",
                fontsize=8,
                color=INK if each.after < each.before else MUTED,
            )
        axes.set_yticks(rows, [each.layer for each in shown])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xlim(0, largest * 1.14)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.xaxis.grid(True)
        axes.set_xlabel("output channels")
        return svg(figure, "widths")
