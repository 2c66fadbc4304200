"""Which layers are tied together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from secateur.errors import InputError
from secateur.graph import Graph
from secateur.report.collect import coupled_groups
from secateur.report.content import CoupledGroup
from secateur.report.figures.theme import Palette, canvas, palette_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from secateur.result import Result

__all__ = ["MOST_GROUPS", "MOST_ROWS", "choose_groups", "draw_groups", "groups", "width_of"]

MOST_GROUPS = 28
MOST_ROWS = 64


def groups(of: Result | Graph, *, theme: str = "light", width: float | None = None) -> Figure:
    """Draw which layers are tied together, as a graph of layers and coupled groups.

    Every row is a layer, every column a group of channels that can only go together, and the
    line of a group ends at every layer that loses them: filled squares have them as outputs, open
    circles read them as inputs. On top is how many are left.

    Parameters
    ----------
    of : Result or Graph
        What `secateur.prune` or `secateur.trace` returned.
    theme : str, default "light"
        ``"light"`` or ``"dark"``.
    width : float, optional
        Inches; by default as many as the groups take. At most 28 groups over 64 layers are
        drawn, those with most layers.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        When nothing is coupled: a model in which nothing can be pruned, or a result of zeros.
    MissingExtraError
        When matplotlib is not installed: the extra ``report``.

    Examples
    --------
    >>> import secateur as sc
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> figure = sc.plot.groups(sc.trace(net, torch.randn(1, 4)))
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['0', '2']
    """
    if isinstance(of, Graph):
        found = list(_traced(of))
        order = list(dict.fromkeys(_layer(member.name) for member in of.members))
    else:
        found = [] if of.plan.masks else coupled_groups(of.groups, of.model)
        order = [path for path, _ in of.model.named_modules()]
    if not found:
        raise InputError("there is nothing to draw: no layers are coupled here")
    return draw_groups(choose_groups(found), order, theme=theme, width=width)


def _traced(graph: Graph) -> Iterable[CoupledGroup]:
    """The groups that may be pruned, none of it gone yet."""
    for group in graph.groups:
        roles = {
            role: tuple(
                dict.fromkeys(_layer(each.name) for each in group.members if each.role == role)
            )
            for role in ("producer", "consumer")
        }
        if not group.protected and any(roles.values()):
            others = sum(member.role == "other" for member in group.members)
            size = group.size
            yield CoupledGroup(group.name, size, size, roles["producer"], roles["consumer"], others)


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def choose_groups(groups: Sequence[CoupledGroup], most: int = MOST_GROUPS) -> list[CoupledGroup]:
    """As many groups as a picture holds, those with most layers first, in their own order."""
    ranked = sorted(groups, key=lambda each: -len(set(each.makers + each.readers)))
    chosen: list[CoupledGroup] = []
    layers: set[str] = set()
    for group in ranked[:most]:
        more = layers | set(group.makers) | set(group.readers)
        if len(more) > MOST_ROWS and chosen:
            continue
        layers = more
        chosen.append(group)
    return [group for group in groups if group in chosen]


def width_of(groups: Sequence[CoupledGroup]) -> float:
    """Width of the drawing, inches."""
    return 1.9 + max(0.44 * len(groups), 3.2)


def draw_groups(
    groups: Sequence[CoupledGroup],
    layers: Sequence[str],
    *,
    theme: str = "light",
    width: float | None = None,
) -> Figure:
    """A table of dots: a row per layer, a column per group, a line through what goes together.

    Parameters
    ----------
    groups : sequence of CoupledGroup
    layers : sequence of str
        The order of the rows; layers that are in no group have none.
    """
    colours = palette_of(theme)
    used = {layer for group in groups for layer in group.makers + group.readers}
    rows = [layer for layer in layers if layer in used]
    place = {layer: row for row, layer in enumerate(rows)}
    size = (width or width_of(groups), 0.75 + 0.235 * len(rows))
    with canvas(*size, colours) as (figure, axes):
        for row in range(0, len(rows), 2):
            axes.axhspan(row - 0.5, row + 0.5, color=colours.faint, alpha=0.45, linewidth=0)
        for column, group in enumerate(groups):
            _group(axes, column, group, place, colours)
        axes.set_xlim(-0.7, max(len(groups), 1) - 0.3)
        axes.set_ylim(len(rows) - 0.4, -1.9)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(axis="y", labelcolor=colours.ink)
        axes.set_xticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        return figure


def _group(
    axes: Any, column: int, group: CoupledGroup, place: dict[str, int], colours: Palette
) -> None:
    """One line with its ends, and on top how much of it is left."""
    makers, readers = ([place[name] for name in side] for side in (group.makers, group.readers))
    pruned = group.after < group.before
    colour = colours.after if pruned else colours.muted
    axes.plot(
        [column, column],
        [min(makers + readers), max(makers + readers)],
        color=colours.after if pruned else colours.line,
        linewidth=1.6,
        zorder=2,
        solid_capstyle="round",
    )
    axes.scatter(
        [column] * len(readers),
        readers,
        s=30,
        facecolor=colours.surface,
        edgecolor=colour,
        linewidth=1.4,
        zorder=3,
    )
    axes.scatter([column] * len(makers), makers, s=26, marker="s", color=colour, zorder=4)
    axes.text(
        column,
        -1.15,
        f"{group.after}",
        ha="center",
        fontsize=8,
        color=colours.ink if pruned else colours.muted,
        weight="bold" if pruned else "normal",
    )
    axes.text(column, -0.62, f"of {group.before}", ha="center", fontsize=6.5, color=colours.muted)
