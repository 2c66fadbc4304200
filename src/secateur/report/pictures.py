"""The pictures of a page: each as it is on a wide screen, and as it is on a phone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from secateur.errors import require
from secateur.report.content import Report
from secateur.report.figures.coupling import choose_groups
from secateur.report.figures.drops import MOST_CURVES, sensitivity
from secateur.report.figures.histograms import draw_histograms
from secateur.report.figures.masks import mask
from secateur.report.figures.theme import svg
from secateur.report.figures.ties import GRAPH_WIDTH, draw_groups
from secateur.report.figures.tradeoff import accuracy
from secateur.report.figures.training import training
from secateur.report.figures.widths import MOST_LAYERS, draw_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "picture", "pictures_of"]

WIDE, NARROW, POINTS = 9.6, 3.9, 96
SECTIONS = ("tradeoff", "widths", "groups", "weights", "masks", "scan", "training")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes
    ----------
    wide, narrow : str
        SVG that takes its colours from the page; equal where there is only one.
    width : int
        Up to how many pixels the wide one grows.
    left_out : int
        How many layers, groups or curves there is no room for.
    """

    wide: str
    narrow: str
    width: int
    left_out: int = 0


def picture(
    draw: Callable[[float], Figure], name: str, *, wide: float = WIDE, left_out: int = 0
) -> Picture:
    """Draw something at both widths, inches."""
    markup = require("markupsafe", "report").Markup
    return Picture(
        markup(svg(draw(wide), f"{name}-wide")),
        markup(svg(draw(NARROW), f"{name}-narrow")),
        width=round(POINTS * wide),
        left_out=left_out,
    )


def pictures_of(report: Report) -> dict[str, list[Picture]]:
    """What there is to be seen, by the name of its section; empty where there is nothing."""
    found: dict[str, list[Picture]] = {name: [] for name in SECTIONS}
    if len({point.macs for point in report.points}) > 1:
        points = list(report.points)
        found["tradeoff"].append(_page(accuracy, "tradeoff", points, wide=7.6))
    if report.widths:
        left_out = max(len(report.widths) - MOST_LAYERS, 0)
        found["widths"].append(_page(draw_layers, "widths", report.widths, left_out=left_out))
    if report.groups:
        found["groups"].append(_groups(report))
    if report.histograms:
        found["weights"].append(_page(draw_histograms, "weights", report.histograms))
    for number, each in enumerate(report.masks):
        found["masks"].append(
            picture(
                lambda width, each=each: mask(  # type: ignore[misc]
                    each.weight, corner=each.corner, title=each.name, theme="page", width=width
                ),
                f"mask{number}",
                wide=4.6,
            )
        )
    if report.scan is not None and any(curve.amounts for curve in report.scan):
        left_out = max(len(report.scan) - MOST_CURVES, 0)
        found["scan"].append(_page(sensitivity, "scan", report.scan, left_out=left_out))
    if any(report.histories.values()):
        found["training"].append(_page(training, "training", report.histories))
    return found


def _page(
    draw: Callable[..., Figure], name: str, shown: object, *, wide: float = WIDE, left_out: int = 0
) -> Picture:
    return picture(
        lambda width: draw(shown, theme="page", width=width), name, wide=wide, left_out=left_out
    )


def _groups(report: Report) -> Picture:
    chosen = choose_groups(report.groups)
    order = dict.fromkeys(width.layer for width in report.widths)
    for group in report.groups:
        order.update(dict.fromkeys(group.makers + group.readers))
    return picture(
        lambda width: draw_groups(chosen, list(order), theme="page", width=width),
        "groups",
        wide=GRAPH_WIDTH,
        left_out=len(report.groups) - len(chosen),
    )
