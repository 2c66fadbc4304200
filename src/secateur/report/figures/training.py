"""Loss and accuracy over the epochs of every training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.errors import InputError, require
from secateur.recover import Epoch, History
from secateur.report.figures.theme import Palette, palette_of, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["training"]


def training(
    histories: Mapping[str, History], *, theme: str = "light", width: float = 9.6
) -> Figure:
    """Draw loss and accuracy by epoch; a line marks where one training ends and the next begins.

    Parameters
    ----------
    histories : mapping of str to History
        Trainings by name, in order; what `secateur.recover` returned.
    theme : str, default "light"
        ``"light"`` or ``"dark"``.
    width : float, default 9.6
        Inches; up to 6 the two stand below each other.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        When there is no epoch.
    MissingExtraError
        When matplotlib is not installed: the extra ``report``.

    Examples
    --------
    >>> import secateur as sc
    >>> import torch
    >>> net, x = torch.nn.Linear(4, 2), torch.randn(8, 4)
    >>> batches = [(x, torch.zeros(8, dtype=torch.long))]
    >>> history = sc.recover(net, batches, epochs=2)
    >>> figure = sc.plot.training({"recovery": history})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss', 'accuracy, %']
    """
    colours = palette_of(theme)
    runs = [(name, history) for name, history in histories.items() if len(history)]
    if not runs:
        raise InputError("there is nothing to draw: no training has an epoch")
    scored = any(epoch.accuracy is not None for _, run in runs for epoch in run)
    fields = ("loss", "accuracy") if scored else ("loss",)
    columns = len(fields) if width > 6 else 1
    with panels(len(fields), columns, width, 2.7, colours, gaps=(0.1, 0.06)) as (figure, every):
        start = 0
        for index, (name, history) in enumerate(runs):
            for axes, field in zip(every, fields, strict=True):
                _run(axes, field, history, start, colours)
                if index:
                    axes.axvline(start + 0.5, color=colours.line, linewidth=1)
                axes.text(
                    start + 0.6,
                    1.02,
                    name,
                    transform=axes.get_xaxis_transform(),
                    fontsize=8,
                    color=colours.muted,
                )
            start += len(history)
        for axes, label in zip(every, ("loss", "accuracy, %"), strict=False):
            axes.set_xlim(0.5, start + 0.5)
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.yaxis.grid(True)
            axes.spines["left"].set_visible(False)
            axes.xaxis.get_major_locator().set_params(integer=True)
        _scale_loss(every[0], [epoch for _, history in runs for epoch in history])
        return figure


def _run(axes: Any, field: str, history: History, start: int, colours: Palette) -> None:
    """Training and validation of one run, after ``start`` epochs of others."""
    at = [start + epoch.number for epoch in history]
    for attribute, colour in ((field, colours.before), (f"val_{field}", colours.after)):
        values = [getattr(epoch, attribute) for epoch in history]
        if any(value is None for value in values):
            continue
        if field == "accuracy":
            values = [100 * value for value in values]
        axes.plot(at, values, color=colour, marker="o", markersize=3)


def _scale_loss(axes: Any, epochs: Sequence[Epoch]) -> None:
    """Show losses by their order of magnitude; a first epoch would flatten all others."""
    if any(min(epoch.loss, epoch.val_loss or epoch.loss) <= 0 for epoch in epochs):
        return
    ticker = require("matplotlib.ticker", "report")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
