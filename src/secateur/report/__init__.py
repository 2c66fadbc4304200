"""What was done, what was not and why, what it costs and gains: one HTML file."""

from __future__ import annotations

from secateur.report.content import (
    Check,
    CoupledGroup,
    Histogram,
    MaskedWeight,
    Milestone,
    Point,
    Report,
    Stage,
    Width,
)
from secateur.report.render import render, write_report
from secateur.report.section import Section
from secateur.report.table import Row, comparison

__all__ = [
    "Check",
    "CoupledGroup",
    "Histogram",
    "MaskedWeight",
    "Milestone",
    "Point",
    "Report",
    "Row",
    "Section",
    "Stage",
    "Width",
    "comparison",
    "render",
    "write_report",
]
