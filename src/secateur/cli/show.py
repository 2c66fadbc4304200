"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from secateur.profiling import Profile
    from secateur.report import Report, Row
    from secateur.result import Result

__all__ = ["comparison_table", "show_demo", "show_pruned"]

_MOST_PROTECTED = 5


def comparison_table(rows: Sequence[Row]) -> Table:
    """Before and after, side by side."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right", style="bold")
    table.add_column("", style="green")
    for row in rows:
        table.add_row(row.label, row.before, row.after, row.gain)
    return table


def show_pruned(console: Console, result: Result, name: str, *, verbose: bool) -> None:
    """What pruning did, and what it left whole."""
    from secateur.report.content import Stage
    from secateur.report.table import comparison

    def stage(cost: Profile) -> Stage:
        return Stage(cost.macs, cost.params, cost.nonzero, cost.bytes)

    console.print(comparison_table(comparison(stage(result.before), stage(result.after))))
    touched = sum(group.after < group.before for group in result.groups)
    verified = "not verified" if result.error is None else f"error {result.error:.2g}"
    if result.plan.masks:
        zeros = sum(int(mask.numel() - mask.sum()) for mask in result.plan.masks.values())
        entries = sum(mask.numel() for mask in result.plan.masks.values())
        console.print(
            f"{name}: {zeros:,} of {entries:,} entries of {touched} weights are zero now "
            f"({zeros / max(entries, 1):.2%}); it is as large and as fast as before until a sparse "
            f"format or kernel uses them; proof: {verified}"
        )
    else:
        compacted = "compact" in result.plan.settings
        against = "model with its zeros" if compacted else "masked model"
        console.print(
            f"{name}: {touched} of {len(result.groups)} coupled groups pruned; "
            f"smaller against {against}: {verified}"
        )
    if not result.skipped:
        return
    shown = result.skipped if verbose else result.skipped[:_MOST_PROTECTED]
    console.print(f"[dim]{len(result.skipped)} protected:")
    for tensor, reason in shown:
        console.print(f"[dim]  {tensor}: {reason}", soft_wrap=True)
    if len(shown) < len(result.skipped):
        console.print(f"[dim]  and {len(result.skipped) - len(shown)} more (--verbose)")


def show_demo(console: Console, report: Report, seconds: float, path: str) -> None:
    """The summary of the demo."""
    from secateur.report.numbers import percent
    from secateur.report.table import comparison

    console.print()
    console.print(comparison_table(comparison(report.before, report.after)))
    console.print()
    for each in report.milestones:
        console.print(f"  {percent(each.accuracy, 2):>9}  {each.label}")
    console.print()
    for check in report.checks:
        mark = "[green]✓[/]" if check.passed else "[red]✗[/]"
        console.print(f"  {mark} {check.label}", soft_wrap=True)
    console.print(f"\n{seconds:.0f} s. Report: [bold]{path}[/]", soft_wrap=True)
