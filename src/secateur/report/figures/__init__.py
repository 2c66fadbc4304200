"""The figures: one function each, from what is to be seen to a matplotlib figure."""

from __future__ import annotations

from secateur.report.figures.coupling import groups
from secateur.report.figures.drops import sensitivity
from secateur.report.figures.histograms import histogram
from secateur.report.figures.masks import mask
from secateur.report.figures.tradeoff import accuracy
from secateur.report.figures.training import training
from secateur.report.figures.widths import layers

__all__ = ["accuracy", "groups", "histogram", "layers", "mask", "sensitivity", "training"]
