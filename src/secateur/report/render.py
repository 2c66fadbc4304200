"""From the contents of a report to one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from secateur.report import numbers
from secateur.report.content import Report, Stage
from secateur.report.page import page, write_page
from secateur.report.pictures import pictures_of
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
    return page(
        "report.html.j2",
        title=report.title,
        report=report,
        headlines=headlines(report.before, report.after),
        rows=comparison(report.before, report.after),
        pictures=pictures_of(report),
        whole=any(group.after == group.before for group in report.groups),
        zeros=any(each.zeros_after for each in report.histograms),
        validated=any(
            epoch.val_loss is not None for history in report.histories.values() for epoch in history
        ),
    )


def write_report(report: Report, path: str | Path) -> Path:
    """Write the report as one HTML file, whole or not at all, and return its path.

    Raises
    ------
    WriteError
        When there is no room for it.
    MissingExtraError
        When Jinja2 or matplotlib is not installed.
    """
    return write_page(render(report), path)
