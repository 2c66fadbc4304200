"""Loss and accuracy over the epochs of every training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.errors import require
from secateur.recover import Epoch, History
from secateur.report.figures.theme import AFTER, BEFORE, LINE, MUTED, canvas, svg

__all__ = ["draw_curves"]


def draw_curves(histories: Mapping[str, History]) -> str:
    """Two panels over one axis of epochs; a line marks where one run ends and the next begins."""
    runs = [(name, history) for name, history in histories.items() if len(history)]
    scored = any(epoch.accuracy is not None for _, run in runs for epoch in run)
    with canvas(9.6, 2.7, gaps=(0.1, 0.04), ncols=2 if scored else 1, squeeze=False) as (
        figure,
        grid,
    ):
        start = 0
        for index, (name, history) in enumerate(runs):
            at = [start + epoch.number for epoch in history]
            for axes, field in zip(grid.flat, ("loss", "accuracy"), strict=False):
                for attribute, colour in ((field, BEFORE), (f"val_{field}", AFTER)):
                    values = [getattr(epoch, attribute) for epoch in history]
                    if any(value is None for value in values):
                        continue
                    if field == "accuracy":
                        values = [100 * value for value in values]
                    axes.plot(at, values, color=colour, marker="o", markersize=3)
                if index:
                    axes.axvline(start + 0.5, color=LINE, linewidth=1)
                axes.text(
                    start + 0.6,
                    1.02,
                    name,
                    transform=axes.get_xaxis_transform(),
                    fontsize=8,
                    color=MUTED,
                )
            start += len(history)
        for axes, field in zip(grid.flat, ("loss", "accuracy, %"), strict=False):
            axes.set_xlim(0.5, start + 0.5)
            axes.set_xlabel("epoch")
            axes.set_ylabel(field)
            axes.yaxis.grid(True)
            axes.spines["left"].set_visible(False)
            axes.xaxis.get_major_locator().set_params(integer=True)
        _scale_loss(grid.flat[0], [epoch for _, history in runs for epoch in history])
        return svg(figure, "curves")


def _scale_loss(axes: Any, epochs: Sequence[Epoch]) -> None:
    """Show losses by their order of magnitude; a first epoch would flatten all others."""
    if any(min(epoch.loss, epoch.val_loss or epoch.loss) <= 0 for epoch in epochs):
        return
    ticker = require("matplotlib.ticker", "report")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
