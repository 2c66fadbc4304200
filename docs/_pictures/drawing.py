"""What every picture shares: its page, its colours, its size, and how it is written."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

METHODS = Path(__file__).resolve().parents[1] / "methods"

# Of middle lightness, so that they can be read on a light page and on a dark one.
INK = "#7b848c"
KEPT = "#129c8b"
GONE = "#e0692a"
OTHER = "#4b8bd4"
FAINT = "#7b848c40"

STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

PICTURES: dict[str, Callable[[], Figure]] = {}


def picture(page: str) -> Callable[[Callable[[], Figure]], Callable[[], Figure]]:
    """Register what draws the picture of a page, such as ``criteria/fpgm``."""

    def add(draw: Callable[[], Figure]) -> Callable[[], Figure]:
        if page in PICTURES:
            raise ValueError(f"page {page!r} has two pictures")
        PICTURES[page] = draw
        return draw

    return add


def panels(count: int = 2, **options: Any) -> tuple[Figure, Any]:
    """A figure of 720 by 300 pixels with so many panels beside each other."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    figure = Figure(figsize=(7.5, 3.1), layout=layout)
    return figure, figure.subplots(1, count, **options)


def drawn(page: str) -> str:
    """The picture of a page as SVG, the same on every run."""
    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": page})
        PICTURES[page]().savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Two decimals are a hundredth of a pixel; more only make the file large.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
