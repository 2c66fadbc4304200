"""Which layers are tied together."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.report.content import CoupledGroup
from secateur.report.figures.theme import AFTER, FAINT, INK, LINE, MUTED, SURFACE, canvas, svg

__all__ = ["MOST_GROUPS", "MOST_ROWS", "choose_groups", "draw_groups", "width_of"]

MOST_GROUPS = 28
MOST_ROWS = 64


def choose_groups(groups: Sequence[CoupledGroup]) -> list[CoupledGroup]:
    """As many groups as a picture holds, those with most layers first, in their own order."""
    ranked = sorted(groups, key=lambda each: -len(set(each.makers + each.readers)))
    chosen: list[CoupledGroup] = []
    layers: set[str] = set()
    for group in ranked[:MOST_GROUPS]:
        more = layers | set(group.makers) | set(group.readers)
        if len(more) > MOST_ROWS and chosen:
            continue
        layers = more
        chosen.append(group)
    return [group for group in groups if group in chosen]


def width_of(groups: Sequence[CoupledGroup]) -> float:
    """Width of the drawing, inches."""
    return 1.9 + max(0.44 * len(groups), 3.2)


def draw_groups(groups: Sequence[CoupledGroup], layers: Sequence[str]) -> str:
    """A table of dots: a row per layer, a column per group, a line through what goes together.

    Parameters
    ----------
    groups : sequence of CoupledGroup
    layers : sequence of str
        The order of the rows; layers that are in no group have none.
    """
    used = {layer for group in groups for layer in group.makers + group.readers}
    rows = [layer for layer in layers if layer in used]
    place = {layer: row for row, layer in enumerate(rows)}
    with canvas(width_of(groups), 0.75 + 0.235 * len(rows)) as (figure, axes):
        for row in range(0, len(rows), 2):
            axes.axhspan(row - 0.5, row + 0.5, color=FAINT, alpha=0.45, linewidth=0)
        for column, group in enumerate(groups):
            places = [place[layer] for layer in group.makers + group.readers]
            pruned = group.after < group.before
            axes.plot(
                [column, column],
                [min(places), max(places)],
                color=AFTER if pruned else LINE,
                linewidth=1.6,
                zorder=2,
                solid_capstyle="round",
            )
            axes.scatter(
                [column] * len(group.readers),
                [place[layer] for layer in group.readers],
                s=30,
                facecolor=SURFACE,
                edgecolor=AFTER if pruned else MUTED,
                linewidth=1.4,
                zorder=3,
            )
            axes.scatter(
                [column] * len(group.makers),
                [place[layer] for layer in group.makers],
                s=26,
                marker="s",
                color=AFTER if pruned else MUTED,
                zorder=4,
            )
            axes.text(
                column,
                -1.15,
                f"{group.after}",
                ha="center",
                fontsize=8,
                color=INK if pruned else MUTED,
                weight="bold" if pruned else "normal",
            )
            axes.text(column, -0.62, f"of {group.before}", ha="center", fontsize=6.5, color=MUTED)
        axes.set_xlim(-0.7, max(len(groups), 1) - 0.3)
        axes.set_ylim(len(rows) - 0.4, -1.9)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        return svg(figure, "groups")
