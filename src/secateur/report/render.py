"""From the contents of a report to one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.errors import require
from secateur.report import numbers
from secateur.report.content import Report, Stage
from secateur.report.figures import (
    choose_groups,
    draw_curves,
    draw_groups,
    draw_weights,
    draw_widths,
)
from secateur.report.figures.groups import width_of
from secateur.report.figures.widths import MOST_LAYERS
from secateur.report.table import comparison

__all__ = ["Headline", "headlines", "render", "write_report"]


@dataclasses.dataclass(frozen=True)
class Headline:
    """One big number."""

    label: str
    value: str
    detail: str


def headlines(before: Stage, after: Stage) -> list[Headline]:
    """The numbers that the page starts with: accuracy, MACs, parameters and one measured time.

    Examples
    --------
    >>> [each.value for each in headlines(Stage(100, 50, 50, 200), Stage(50, 20, 20, 80))]
    ['2.00×', '2.50×']
    """
    shown = []
    if before.accuracy is not None and after.accuracy is not None:
        shown.append(
            Headline(
                "Accuracy",
                numbers.percent(after.accuracy),
                f"from {numbers.percent(before.accuracy)}",
            )
        )
    for label, first, second in (
        ("Fewer MACs", before.macs, after.macs),
        ("Fewer parameters", before.params, after.params),
    ):
        shown.append(
            Headline(
                label,
                numbers.times(first, second),
                f"{numbers.count(first)} → {numbers.count(second)}",
            )
        )
    timed = [
        (name, slow, fast)
        for name, slow, fast in (
            ("ONNX Runtime", before.onnx_latency, after.onnx_latency),
            ("PyTorch", before.torch_latency, after.torch_latency),
        )
        if slow is not None and fast is not None
    ]
    if timed:
        name, slow, fast = timed[0]
        shown.append(
            Headline(
                f"As fast in {name}",
                numbers.times(slow.ratio(fast), 1),
                f"{numbers.milliseconds(slow.median_ms)} → {numbers.milliseconds(fast.median_ms)}",
            )
        )
    return shown


def render(report: Report) -> str:
    """Lay the report out as one HTML page.

    The page carries its style and its pictures, loads nothing, follows the reader's light or
    dark scheme and fits narrow screens. Equal contents give equal bytes.

    Raises
    ------
    MissingExtraError
        When Jinja2 or matplotlib is not installed.
    """
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False
    )
    environment.filters["percent"] = numbers.percent
    environment.filters["setting"] = _setting
    source = resources.files("secateur.report").joinpath("template.html.j2")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    groups = choose_groups(report.groups)
    markup = require("markupsafe", "report").Markup
    pictures = {
        "widths": draw_widths(report.widths) if report.widths else "",
        "groups": draw_groups(groups, _layers(report)) if groups else "",
        "weights": draw_weights(report.histograms) if report.histograms else "",
        "curves": draw_curves(report.histories) if any(report.histories.values()) else "",
    }
    return template.render(
        report=report,
        version=__version__,
        headlines=headlines(report.before, report.after),
        rows=comparison(report.before, report.after),
        pictures={name: markup(text) for name, text in pictures.items()},
        hidden_layers=max(len(report.widths) - MOST_LAYERS, 0),
        hidden_groups=len(report.groups) - len(groups),
        groups_width=round(96 * width_of(groups) * 1.05),
        validated=any(
            epoch.val_loss is not None for history in report.histories.values() for epoch in history
        ),
    )


def write_report(report: Report, path: str | Path) -> Path:
    """Write the report as one HTML file and return its path; folders are made as needed.

    Raises
    ------
    MissingExtraError
        When Jinja2 or matplotlib is not installed.
    """
    path = Path(path)
    text = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _layers(report: Report) -> list[str]:
    """Every layer that a picture of groups may name, in the network's order."""
    ordered = [width.layer for width in report.widths]
    named = dict.fromkeys(ordered)
    for group in report.groups:
        named.update(dict.fromkeys(group.makers + group.readers))
    return list(named)


def _setting(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)) and not value:
        return "none"
    return json.dumps(value, ensure_ascii=False)
