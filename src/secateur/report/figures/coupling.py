"""Which layers are tied together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from secateur.errors import InputError
from secateur.graph import Graph
from secateur.report.collect import coupled_groups
from secateur.report.content import CoupledGroup
from secateur.report.figures.ties import GRAPH_WIDTH, draw_groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from secateur.result import Result

__all__ = ["MOST_GROUPS", "MOST_ROWS", "choose_groups", "groups"]

MOST_GROUPS = 28
MOST_ROWS = 64


def groups(of: Result | Graph, *, theme: str = "light", width: float = GRAPH_WIDTH) -> Figure:
    """Draw which layers are tied together, as a graph of layers and coupled groups.

    In the middle are the groups of channels that can only go together, with how many of them are
    left; lines go to the left to every layer that has them as outputs (filled squares), and to the
    right to every layer that reads them as inputs (open circles). Lines of the drawing are
    layers, in the network's order.

    Parameters
    ----------
    of : Result or Graph
        What `secateur.prune` or `secateur.trace` returned.
    theme : str, default "light"
        ``"light"`` or ``"dark"``.
    width : float, default 7.6
        Inches. At most 28 groups over 64 layers are drawn, those with most layers.

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
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['8 of 8']
    >>> [[label.get_text() for label in side.get_yticklabels()] for side in figure.axes]
    [['0'], ['2']]
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
