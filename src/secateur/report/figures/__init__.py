"""The pictures of a report, as SVG that follows the page's colours."""

from __future__ import annotations

from secateur.report.figures.curves import draw_curves
from secateur.report.figures.groups import choose_groups, draw_groups
from secateur.report.figures.weights import draw_weights
from secateur.report.figures.widths import draw_widths

__all__ = ["choose_groups", "draw_curves", "draw_groups", "draw_weights", "draw_widths"]
