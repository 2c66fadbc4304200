"""What is left of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from secateur.errors import InputError
from secateur.report.collect import layer_widths
from secateur.report.content import Width
from secateur.report.figures.theme import Palette, palette_of, panels
from secateur.report.numbers import count, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from secateur.result import Result

__all__ = ["MOST_LAYERS", "draw_layers", "layers"]

MOST_LAYERS = 60
SIDE_BY_SIDE = 6.0


def layers(
    result: Result, *, most: int = MOST_LAYERS, theme: str = "light", width: float = 9.6
) -> Figure:
    """Draw what is left of every layer: its output channels, and its weights that are not zero.

    Parameters
    ----------
    result : Result
        What `secateur.prune` returned.
    most : int, default 60
        At most this many layers: those that lost most.
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
        When the model has no convolution or linear layer.
    MissingExtraError
        When matplotlib is not installed: the extra ``report``.

    Examples
    --------
    >>> import secateur as sc
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> figure = sc.plot.layers(sc.prune(net, torch.randn(1, 4), budget={"params": 0.6}))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['output channels', 'weights']
    """
    return draw_layers(layer_widths(result.model, result.plan), most, theme=theme, width=width)


def draw_layers(
    widths: Sequence[Width], most: int = MOST_LAYERS, *, theme: str = "light", width: float = 9.6
) -> Figure:
    """Bars of what is kept on tracks of what there was."""
    if not widths:
        raise InputError("there is nothing to draw: the model has no convolution or linear layer")
    colours = palette_of(theme)
    shown = list(widths)
    if len(shown) > most:
        lost = sorted(shown, key=lambda each: (each.after / each.before, _kept(each)))[:most]
        chosen = {each.layer for each in lost}
        shown = [each for each in shown if each.layer in chosen]
    sides = [("output channels", [(each.before, each.after) for each in shown])]
    if any(each.weights_before for each in shown):
        sides.append(("weights", [(each.weights_before, each.weights_after) for each in shown]))
    height = 0.5 + 0.235 * len(shown)
    beside = width > SIDE_BY_SIDE and len(sides) > 1
    columns = len(sides) if beside else 1
    with panels(len(sides), columns, width, height, colours, gaps=(0.04, 0.06)) as (figure, every):
        for number, (axes, (label, pairs)) in enumerate(zip(every, sides, strict=True)):
            _bars(axes, pairs, label, colours)
            names = [each.layer for each in shown]
            axes.set_yticks(range(len(shown)), [""] * len(shown) if beside and number else names)
        return figure


def _kept(each: Width) -> float:
    return each.weights_after / each.weights_before if each.weights_before else 1.0


def _bars(axes: Any, pairs: Sequence[tuple[int, int]], label: str, colours: Palette) -> None:
    rows = range(len(pairs))
    largest = max(max(before for before, _ in pairs), 1)
    axes.barh(rows, [before for before, _ in pairs], height=0.62, color=colours.faint)
    axes.barh(rows, [after for _, after in pairs], height=0.62, color=colours.after)
    for row, (before, after) in zip(rows, pairs, strict=True):
        axes.text(
            before + 0.015 * largest,
            row,
            f"{count(after)} of {count(before)}" if after < before else count(after),
            va="center",
            fontsize=8,
            color=colours.ink if after < before else colours.muted,
        )
    axes.tick_params(axis="y", labelcolor=colours.ink)
    axes.set_xlim(0, largest * 1.45)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.xaxis.grid(True)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.set_xlabel(label)
