"""The looks of every figure: light, dark, or taken from the page that it stands in."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from secateur.errors import UnknownNameError, require, suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["THEMES", "Palette", "canvas", "palette_of", "panels", "svg"]

TICKS = 8.0


@dataclasses.dataclass(frozen=True)
class Palette:
    """The colours of a drawing, named as in the page.

    Attributes
    ----------
    ink, muted, line, faint : str
        Letters, letters of less weight, lines, and what is there to be overlooked.
    before, after : str
        The two sides of every comparison; of signed values, below and above zero.
    surface : str
        What it is drawn on.
    """

    ink: str
    muted: str
    line: str
    faint: str
    before: str
    after: str
    surface: str


THEMES = {
    "light": Palette("#1d211b", "#6a7166", "#e1e3da", "#eceee5", "#a3937c", "#2f7d52", "#ffffff"),
    "dark": Palette("#e9ece4", "#98a192", "#2c322a", "#252b23", "#b39d7d", "#63bd88", "#1a1e19"),
    # Stand-ins: matplotlib needs colours, the page decides which; see svg().
    "page": Palette(*(f"#01010{number}" for number in range(1, 8))),
}


def palette_of(theme: str) -> Palette:
    """The colours of a theme.

    Raises
    ------
    UnknownNameError

    Examples
    --------
    >>> palette_of("dark").after
    '#63bd88'
    """
    if theme not in THEMES:
        raise UnknownNameError(f"there is no theme {theme!r}{suggestion(theme, THEMES)}")
    return THEMES[theme]


def _style(colours: Palette) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9.0,
        "text.color": colours.ink,
        "axes.edgecolor": colours.line,
        "axes.labelcolor": colours.muted,
        "axes.titlecolor": colours.ink,
        "axes.titlesize": 9.0,
        "axes.titleweight": "normal",
        "axes.titlelocation": "left",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": colours.line,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.8,
        "figure.facecolor": colours.surface,
        "axes.facecolor": "none",
    }


@contextlib.contextmanager
def canvas(
    width: float,
    height: float,
    colours: Palette,
    *,
    gaps: tuple[float, float] = (0.02, 0.04),
    **options: Any,
) -> Iterator[tuple[Figure, Any]]:
    """Open a figure with its axes; sizes in inches, options as for ``Figure.subplots``.

    ``gaps`` are the inches around every axes, to the sides and above and below.

    The figure has no connection to pyplot or a display, and settings made elsewhere do not
    reach it.
    """
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    engines = require("matplotlib.layout_engine", "report")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_style(colours))
        layout = engines.ConstrainedLayoutEngine(w_pad=gaps[0], h_pad=gaps[1])
        figure = figures.Figure(figsize=(width, height), layout=layout)
        axes = figure.subplots(**options)
        for each in figure.axes:
            # Ticks are made when they are first drawn, and would take settings made elsewhere.
            each.tick_params(
                labelsize=TICKS,
                labelcolor=colours.muted,
                labelfontfamily="sans-serif",
                color=colours.line,
                length=0,
            )
        yield figure, axes


@contextlib.contextmanager
def panels(
    count: int,
    columns: int,
    width: float,
    row: float,
    colours: Palette,
    *,
    above: float = 0.0,
    gaps: tuple[float, float] = (0.02, 0.04),
    **options: Any,
) -> Iterator[tuple[Figure, list[Any]]]:
    """Open a figure with so many axes, row by row; options as for ``Figure.subplots``.

    Parameters
    ----------
    count, columns : int
    width, row, above : float
        Inches: of the figure, of a row of it, and of what is not part of any row.
    """
    lines = math.ceil(count / columns)
    with canvas(
        width,
        above + row * lines,
        colours,
        gaps=gaps,
        nrows=lines,
        ncols=columns,
        squeeze=False,
        **options,
    ) as (figure, grid):
        for axes in grid.flat[count:]:
            axes.set_visible(False)
        yield figure, list(grid.flat[:count])


def svg(figure: Figure, name: str) -> str:
    """Draw the figure as SVG to be placed inside a page.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Drawn with the theme ``page``.
    name : str
        Sets this figure's identifiers apart from those of others in the page.

    Returns
    -------
    str
        An ``<svg>`` element whose colours are the page's CSS variables and whose text is text,
        the same on every run.
    """
    buffer = io.StringIO()
    matplotlib = require("matplotlib", "report")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for variable, colour in dataclasses.asdict(THEMES["page"]).items():
        text = text.replace(colour, f"var(--{variable})")
    # A hundredth of a point is finer than any screen, and half the file.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    # Letters inherit the page's family; a drawing brings only their size and weight.
    text = re.sub(r"font: (bold )?([\d.]+)px [^;\"]*", _font, text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r'id="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href|href)="#([^"]*)"', rf'href="#{name}-\2"', text)
    return re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", text)


def _font(match: re.Match[str]) -> str:
    weight = "; font-weight: 600" if match.group(1) else ""
    return f"font-size: {match.group(2)}px{weight}"
