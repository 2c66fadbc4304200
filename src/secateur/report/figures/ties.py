"""The picture of coupled groups: layers on both sides, and between them what ties them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from secateur.errors import require
from secateur.report.content import CoupledGroup
from secateur.report.figures.theme import TICKS, Palette, canvas, palette_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GRAPH_WIDTH", "draw_groups"]

GRAPH_WIDTH = 7.6
ROW = 0.235
MIDDLE = 0.5
"""Where the groups stand, between the layers at 0 and at 1."""
# Inches: what the middle needs at least, and a letter of a name.
BETWEEN, LETTER = 1.5, 0.066


def draw_groups(
    groups: Sequence[CoupledGroup],
    layers: Sequence[str],
    *,
    theme: str = "light",
    width: float = GRAPH_WIDTH,
) -> Figure:
    """A graph: from the layers that make channels, through their groups, to those that read them.

    Parameters
    ----------
    groups : sequence of CoupledGroup
    layers : sequence of str
        The order of the lines; a layer stands on the same one on both sides, and layers that are
        in no group on none.
    """
    colours = palette_of(theme)
    used = {layer for group in groups for layer in group.makers + group.readers}
    place = {name: row for row, name in enumerate(each for each in layers if each in used)}
    nodes = _apart([_centre(group, place) for group in groups], 1.15)
    first, last = min(-0.6, *nodes), max(len(place) - 0.4, *nodes)
    with canvas(width, 0.3 + ROW * (last - first), colours) as (figure, axes):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(last + 0.4, first - 0.4)
        axes.set_xticks([0, MIDDLE, 1], ["outputs of", "units left", "inputs of"])
        axes.tick_params(axis="x", labelcolor=colours.muted, top=False, labeltop=True)
        axes.tick_params(axis="x", labelbottom=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        most = max(int((width - BETWEEN) / 2 / LETTER), 8)
        across = axes.twinx()
        across.set_ylim(axes.get_ylim())
        across.spines[["left", "bottom", "right", "top"]].set_visible(False)
        for side, names in (
            (axes, {name for group in groups for name in group.makers}),
            (across, {name for group in groups for name in group.readers}),
        ):
            chosen = [name for name in place if name in names]
            side.set_yticks([place[name] for name in chosen], [_tail(n, most) for n in chosen])
            side.tick_params(
                axis="y",
                labelsize=TICKS,
                labelcolor=colours.ink,
                labelfontfamily="sans-serif",
                length=0,
            )
        # What is whole is drawn first: what lost something is to be seen.
        for group, node in sorted(zip(groups, nodes, strict=True), key=lambda pair: _cut(pair[0])):
            _tie(axes, group, node, place, colours)
        return figure


def _cut(group: CoupledGroup) -> bool:
    return group.after < group.before


def _centre(group: CoupledGroup, place: dict[str, int]) -> float:
    rows = [place[name] for name in group.makers + group.readers]
    return sum(rows) / len(rows)


def _apart(wanted: Sequence[float], gap: float = 1.0) -> list[float]:
    """As near to the wanted places as a gap between any two allows, by least squares.

    Examples
    --------
    >>> _apart([2.0, 2.0, 7.0])
    [1.5, 2.5, 7.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # Without the gaps it is an isotonic regression: neighbours in the wrong order share a mean.
    blocks: list[list[float]] = []
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - gap * rank])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    level = [_mean(block) for block in blocks for _ in block]
    found = dict(zip(order, (at + gap * rank for rank, at in enumerate(level)), strict=True))
    return [found[index] for index in range(len(wanted))]


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept)


def _tail(name: str, most: int) -> str:
    """The end of a name, which tells more than its start."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _tie(
    axes: Any, group: CoupledGroup, node: float, place: dict[str, int], colours: Palette
) -> None:
    """One group: its node, and a line to every layer that loses its channels."""
    colour = colours.after if _cut(group) else colours.muted
    layer = 3 if _cut(group) else 2
    makers, readers = ([place[name] for name in side] for side in (group.makers, group.readers))
    ends = [(0.0, row) for row in makers] + [(1.0, row) for row in readers]
    axes.add_patch(_lines(ends, node, colour, layer))
    common = {"color": colour, "zorder": layer + 2, "clip_on": False}
    axes.scatter([0.0] * len(makers), makers, s=18, marker="s", **common)
    open_mark = {"facecolor": colours.surface, "edgecolor": colour, "linewidth": 1.3}
    axes.scatter([1.0] * len(readers), readers, s=20, **open_mark, zorder=layer + 2, clip_on=False)
    axes.text(
        MIDDLE,
        node,
        f"{group.after} of {group.before}",
        ha="center",
        va="center_baseline",
        fontsize=TICKS,
        color=colours.surface if _cut(group) else colours.muted,
        weight="bold" if _cut(group) else "normal",
        zorder=layer + 4,
        bbox={
            "boxstyle": "round,pad=0.3,rounding_size=0.7",
            "facecolor": colours.after if _cut(group) else colours.surface,
            "edgecolor": colour,
            "linewidth": 0.9,
        },
    )


def _lines(ends: Sequence[tuple[float, int]], node: float, colour: str, layer: int) -> Any:
    """Curves that leave both sides level, all of a group as one shape."""
    paths = require("matplotlib.path", "report")
    patches = require("matplotlib.patches", "report")
    kind = paths.Path
    vertices: list[tuple[float, float]] = []
    for side, row in ends:
        bend = (side + MIDDLE) / 2
        vertices += [(side, row), (bend, row), (bend, node), (MIDDLE, node)]
    codes = [kind.MOVETO, *[kind.CURVE4] * 3] * len(ends)
    return patches.PathPatch(
        kind(vertices, codes),
        facecolor="none",
        edgecolor=colour,
        linewidth=1.3,
        alpha=0.6,
        zorder=layer,
    )
