"""What every group costs when it alone is pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.allocation import Curve, Sensitivity
from secateur.errors import InputError
from secateur.report.figures.theme import Palette, palette_of, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_CURVES", "sensitivity"]

MOST_CURVES = 24


def sensitivity(
    table: Sensitivity, *, most: int = MOST_CURVES, theme: str = "light", width: float = 9.6
) -> Figure:
    """Draw the curves of a sensitivity scan: how far the measure falls, by the share that goes.

    Parameters
    ----------
    table : Sensitivity
        What `secateur.sensitivity` returned. Each of its curves has a panel, all to one scale,
        with the others faint behind it.
    most : int, default 24
        At most this many panels: those that fall furthest.
    theme : str, default "light"
        ``"light"`` or ``"dark"``.
    width : float, default 9.6
        Inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        When the table has no trial.
    MissingExtraError
        When matplotlib is not installed: the extra ``report``.

    Examples
    --------
    >>> import secateur as sc
    >>> from secateur.allocation import Curve
    >>> conv, fc = (Curve(name, 16, (4, 8), (0.9, 0.7), 0.9) for name in ("conv", "fc"))
    >>> table = sc.Sensitivity(0.9, (conv, fc), (0.25, 0.5), "channel", "l2")
    >>> figure = sc.plot.sensitivity(table)
    >>> [axes.get_title("left") for axes in figure.axes]
    ['conv', 'fc']
    """
    curves = [curve for curve in table if curve.amounts]
    if not curves:
        raise InputError("there is nothing to draw: the table has no trial")
    worst = sorted(curves, key=lambda curve: -float(curve.damage.max()))[:most]
    shown = [curve for curve in curves if curve in worst]
    colours = palette_of(theme)
    columns = min(len(shown), 4 if width > 6 else 2)
    with panels(
        len(shown),
        columns,
        width,
        1.35,
        colours,
        above=0.3,
        gaps=(0.05, 0.05),
        sharex=True,
        sharey=True,
    ) as (figure, every):
        for number, (axes, curve) in enumerate(zip(every, shown, strict=True)):
            for other in shown:
                _line(axes, other, colours.line, 0.8)
            _line(axes, curve, colours.after, 1.8, marked=True)
            _frame(axes, curve, colours)
            # The axes below it are not there: the scale stands here.
            axes.tick_params(labelbottom=number + columns >= len(shown))
        figure.supxlabel("share of its units that went", fontsize=9, color=colours.muted)
        figure.supylabel("drop", fontsize=9, color=colours.muted)
        return figure


def _line(axes: Any, curve: Curve, colour: str, weight: float, marked: bool = False) -> None:
    axes.plot(
        [0, *curve.ratios],
        [0, *curve.drops],
        color=colour,
        linewidth=weight,
        marker="o" if marked else None,
        markersize=2.5,
    )


def _frame(axes: Any, curve: Curve, colours: Palette) -> None:
    axes.set_title(curve.name, fontsize=8, pad=3)
    axes.axhline(0, color=colours.line, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.yaxis.grid(True)
    axes.locator_params(axis="y", nbins=4)
