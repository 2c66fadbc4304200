"""Masks and weights as matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from secateur.errors import InputError, require
from secateur.report.figures.matrix import Matrix, as_matrix
from secateur.report.figures.theme import Palette, canvas, palette_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["mask"]

MOST_NUMBERS = 160
NUMBER_WIDTH = 0.36
LEVELS = 6
FAINTEST = 0.4
GAP = 0.08
STRONG = 0.55


def mask(
    weight: Tensor | np.ndarray,
    *,
    corner: tuple[int, int] | None = None,
    values: bool | None = None,
    title: str = "",
    theme: str = "light",
    width: float = 6.4,
) -> Figure:
    """Draw a mask, or a weight with its zeros, as a matrix.

    A linear layer's weight is drawn as it is: a row per output, a column per input. A
    convolution's has a tile per kernel, laid out in the same way. Exact zeros are cells left
    empty, so that the smallest of weights still differs from them; the others are the stronger
    the larger they are, in one colour above zero and in another below.

    Parameters
    ----------
    weight : Tensor or ndarray, shape [outputs], [outputs, inputs] or [outputs, inputs, *kernel]
        Booleans (True where kept) or numbers.
    corner : (int, int), optional
        Draw only the first outputs and inputs. Without it, a matrix of over 256 rows or columns
        is drawn in blocks, each the stronger the more of it is kept.
    values : bool, optional
        Write the number into every cell; by default where there are few of them.
    title : str, default ""
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
        When there is nothing in it, or numbers that are not finite.
    MissingExtraError
        When matplotlib is not installed: the extra ``report``.

    Examples
    --------
    >>> import secateur as sc
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8))
    >>> result = sc.prune(net, torch.randn(1, 8), granularity="2:4")
    >>> figure = sc.plot.mask(net[0].weight)
    >>> sum(text.get_text() == "0" for text in figure.axes[0].texts)
    32
    >>> figure.savefig("mask.png")  # doctest: +SKIP
    """
    colours = palette_of(theme)
    if corner is not None and (len(corner) != 2 or min(corner) < 1):
        raise InputError(f"corner is how many outputs and inputs to draw, not {corner!r}")
    drawn = as_matrix(weight, corner)
    rows, columns = drawn.cells.shape
    tall, wide = drawn.extent
    room = width - 0.3
    unit = min(room / wide, width / tall, NUMBER_WIDTH)
    with canvas(width, unit * tall + 0.45, colours) as (figure, axes):
        _cells(axes, drawn, colours)
        if values is None:
            values = rows * columns <= MOST_NUMBERS and unit >= 0.9 * NUMBER_WIDTH
        if values:
            _numbers(axes, drawn, colours, min(8.0, 22 * unit))
        axes.set_xlim(-0.5 * GAP, max(wide, room / unit))
        axes.set_ylim(tall, -0.5 * GAP)
        axes.set_aspect("equal", anchor="W")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_title(title or drawn.caption, loc="left", pad=5)
        if title:
            axes.set_xlabel(drawn.caption, loc="left")
        return figure


def _cells(axes: Any, drawn: Matrix, colours: Palette) -> None:
    """Tiles as grounds, and on them one shape for all cells of a strength."""
    top, left = np.meshgrid(drawn.tops, drawn.lefts, indexing="ij")
    _squares(axes, top, left, colours.faint, 1.0, drawn.tight)
    strength = np.ceil(np.clip(np.abs(drawn.cells) / drawn.largest, 0, 1) * LEVELS).astype(int)
    for sign, colour in ((1, colours.after), (-1, colours.before)):
        for level in range(1, LEVELS + 1):
            chosen = (np.sign(drawn.cells) == sign) & (strength == level)
            opacity = FAINTEST + (1 - FAINTEST) * (level - 1) / (LEVELS - 1)
            _squares(axes, top[chosen], left[chosen], colour, opacity, drawn.tight)


def _squares(
    axes: Any, top: np.ndarray, left: np.ndarray, colour: str, opacity: float, tight: bool
) -> None:
    """Many cells as one shape: as many shapes would be slow to draw and to load."""
    if not top.size:
        return
    paths = require("matplotlib.path", "report")
    patches = require("matplotlib.patches", "report")
    side = 1.0 if tight else 1 - GAP
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side], [0, 0]])
    starts = np.stack([left.ravel(), top.ravel()], axis=1)
    vertices = (starts[:, None] + corners).reshape(-1, 2)
    kind = paths.Path
    codes = np.tile([kind.MOVETO, *[kind.LINETO] * 3, kind.CLOSEPOLY], len(starts))
    shape = patches.PathPatch(
        kind(vertices, codes), facecolor=colour, edgecolor="none", alpha=opacity, linewidth=0
    )
    axes.add_patch(shape)


def _legible(strength: float, colours: Palette) -> str:
    """Dark letters on pale cells, pale ones on strong cells."""
    return colours.surface if strength > STRONG else colours.ink


def _numbers(axes: Any, drawn: Matrix, colours: Palette, size: float) -> None:
    largest = drawn.largest
    for row, top in enumerate(drawn.tops):
        for column, left in enumerate(drawn.lefts):
            value = float(drawn.cells[row, column])
            text = f"{value:.2f}".replace("0.", ".").replace("-", "−") if value else "0"
            axes.text(
                left + 0.5 - GAP / 2,
                top + 0.52,
                "1" if drawn.kept_only and value else text,
                ha="center",
                va="center",
                fontsize=size,
                color=_legible(abs(value) / largest, colours) if value else colours.muted,
            )
