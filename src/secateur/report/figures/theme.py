"""Drawings that take their colours and letters from the page they stand in."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from secateur.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AFTER", "BEFORE", "FAINT", "INK", "LINE", "MUTED", "SURFACE", "canvas", "svg"]

# Stand-ins: matplotlib needs colours, the page decides which; see svg().
INK = "#010101"
MUTED = "#010102"
LINE = "#010103"
BEFORE = "#010104"
AFTER = "#010105"
SURFACE = "#010106"
FAINT = "#010107"

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    BEFORE: "before",
    AFTER: "after",
    SURFACE: "surface",
    FAINT: "faint",
}

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.0,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextlib.contextmanager
def canvas(
    width: float, height: float, *, gaps: tuple[float, float] = (0.02, 0.04), **options: Any
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
        matplotlib.rcParams.update(_STYLE)
        layout = engines.ConstrainedLayoutEngine(w_pad=gaps[0], h_pad=gaps[1])
        figure = figures.Figure(figsize=(width, height), layout=layout)
        yield figure, figure.subplots(**options)


def svg(figure: Figure, name: str) -> str:
    """Draw the figure as SVG to be placed inside a page.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
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
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    # Letters inherit the page's family; a drawing brings only their size and weight.
    text = re.sub(r"font: (bold )?([\d.]+)px [^;\"]*", _font, text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r'id="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href|href)="#([^"]*)"', rf'href="#{name}-\2"', text)
    return re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", text)


def _font(match: re.Match[str]) -> str:
    weight = "; font-weight: 600" if match.group(1) else ""
    return f"font-size: {match.group(2)}px{weight}"
