"""How the weights spread, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.report.collect import weight_histograms
from secateur.report.content import Histogram
from secateur.report.figures.theme import Palette, palette_of, panels
from secateur.report.numbers import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_histograms", "histogram"]


def histogram(
    before: nn.Module | Mapping[str, Tensor],
    after: nn.Module,
    *,
    most: int = 12,
    theme: str = "light",
    width: float = 9.6,
) -> Figure:
    """Draw histograms of the weights of two models over each other, layer by layer.

    Parameters
    ----------
    before : Module or mapping of str to Tensor
        The dense model, such as a ``copy.deepcopy`` of before, or its parameters by name.
    after : Module
        The same one, pruned: weights of the same names are compared. Exact zeros are a bar of
        their own with their share on it; it is cut off where it would dwarf everything else.
    most : int, default 12
        At most this many layers, the largest, in the network's order.
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
        When they have no convolution or linear layer in common.
    MissingExtraError
        When matplotlib is not installed: the extra ``report``.

    Examples
    --------
    >>> import copy
    >>> import secateur as sc
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(16, 16))
    >>> dense = copy.deepcopy(net)
    >>> result = sc.prune(net, torch.randn(1, 16), granularity="element", budget={"sparsity": 0.75})
    >>> figure = sc.plot.histogram(dense, net)
    >>> [text.get_text().replace("\u202f", " ") for text in figure.axes[0].texts]
    ['75 % zero']
    """
    dense = dict(before.named_parameters()) if isinstance(before, nn.Module) else before
    found = weight_histograms(dense, after, most=most)
    if not found:
        raise InputError(
            "the two models have no convolution or linear layer of the same name; give the dense "
            "model and the one that was made of it"
        )
    return draw_histograms(found, theme=theme, width=width)


def draw_histograms(
    histograms: Sequence[Histogram], *, theme: str = "light", width: float = 9.6
) -> Figure:
    """Small multiples: before as an outline, after as a filled shape, numbers of weights."""
    colours = palette_of(theme)
    columns = min(len(histograms), 4 if width > 6 else 2)
    count = len(histograms)
    with panels(count, columns, width, 1.45, colours, above=0.25, gaps=(0.06, 0.08)) as (
        figure,
        every,
    ):
        for axes, each in zip(every, histograms, strict=True):
            _one(axes, each, colours)
        return figure


def _one(axes: Any, each: Histogram, colours: Palette) -> None:
    axes.stairs(each.after, each.edges, fill=True, color=colours.after, alpha=0.75, label="after")
    axes.stairs(each.before, each.edges, color=colours.before, linewidth=1.1, label="before")
    limit = float(np.abs(each.edges).max())
    highest = 1.3 * max(each.before.max(), each.after.max(), 1)
    if each.zeros_after:
        total = each.after.sum() / max(1 - each.zeros_after, 1e-9)
        bar = total * each.zeros_after if each.zeros_after < 1 else highest
        axes.bar(0, min(bar, highest), width=limit / 22, color=colours.ink)
        axes.text(
            limit / 12,
            0.97 * highest,
            f"{percent(each.zeros_after, 0)} zero",
            va="top",
            fontsize=8,
            color=colours.ink,
        )
    axes.set_title(each.name, fontsize=8, pad=3)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(0, highest)
    half = f"{limit / 2:.2g}"
    axes.set_xticks([-limit / 2, 0, limit / 2], [f"−{half}", "0", half])
