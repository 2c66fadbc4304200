"""``secateur run``, ``secateur init`` and ``secateur report``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.group import when_stopped
from secateur.cli.opening import consoles
from secateur.cli.options import InputShapes, parse_shape

if TYPE_CHECKING:
    from rich.console import Console

    from secateur.recipes import Preview, RunResult

__all__ = ["init", "report", "run"]


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY.PATH=VALUE]...",
            help="Instead of what the file says: seed=1, steps.2.prune.budget.macs=0.4.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Instead of runs/NAME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, with MACs.")
    ] = False,
) -> None:
    """Carry out a recipe: one YAML file with model, data and steps."""
    # See `secateur demo`; it must not change what is computed, so that it is always the same.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from secateur.recipes import preview, read_recipe, run_recipe

    console, progress = consoles()
    read = read_recipe(recipe, overrides or ())
    if dry_run:
        _show_preview(console, preview(read, out=out))
        return
    again = " ".join(["secateur run", str(recipe), *(overrides or ())])
    where = "" if out is None else f" --out {out}"
    when_stopped(f"go on with: {again}{where} --resume")
    result = run_recipe(read, out=out, resume=resume, console=progress)
    if int(os.environ.get("RANK", "0")) == 0:
        _show_result(console, result)


def init(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="torchvision:NAME, timm:NAME, hf:CONFIG-OR-FOLDER or package.module:callable.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The recipe to write.")
    ] = Path("recipe.yaml"),
    data: Annotated[
        str,
        typer.Option(
            help="digits, parquet:PATH, folder:PATH, text:PATH or package.module:callable."
        ),
    ] = "digits",
    input_shape: InputShapes = None,
) -> None:
    """Write a commented recipe for a model."""
    shapes = [parse_shape(text) for text in input_shape or []]

    from secateur.recipes import write_template

    console, _ = consoles()
    path = write_template(model, out, data=data, input_shapes=shapes)
    console.print(
        f"wrote [bold]{path}[/]; see what it does with: secateur run {path} --dry-run",
        soft_wrap=True,
    )


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, such as runs/NAME.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Instead of report.html in the run's folder, or comparison.html here.",
        ),
    ] = None,
) -> None:
    """Write the report of a run anew; of several runs, one page that compares them."""
    from secateur.recipes import compare_runs, report_run

    console, progress = consoles()
    with progress.status("writing the report"):
        if len(runs) == 1:
            path = report_run(runs[0], out)
        else:
            path = compare_runs(runs, out or Path("comparison.html"))
    console.print(f"report: [bold]{path}[/]", soft_wrap=True)


def _show_preview(console: Console, shown: Preview) -> None:
    from rich.table import Table
    from rich.text import Text

    from secateur.report import numbers

    table = Table(box=None, padding=(0, 2), header_style="dim")
    for title, side in (("", "left"), ("", "left"), ("MACs", "right"), ("parameters", "right")):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    for line in shown.lines:
        params = numbers.count(line.params)
        if line.nonzero < line.params:
            params += f" ({numbers.percent(1 - line.nonzero / line.params)} zero)"
        table.add_row(line.name, Text(line.what), numbers.count(line.macs), params)
    console.print(table)
    if shown.data:
        console.print(f"data: {shown.data}", soft_wrap=True)
    if shown.estimated:
        console.print(
            "sizes by magnitude over the whole model; the recipe's criterion or allocation may "
            "choose other layers within the same budget",
            soft_wrap=True,
        )
    console.print(f"nothing was done; the run's folder would be {shown.folder}", soft_wrap=True)


def _show_result(console: Console, result: RunResult) -> None:
    from rich.table import Table
    from rich.text import Text

    from secateur.recipes.metrics import accuracy_of
    from secateur.report import numbers

    table = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("", "", "MACs", "parameters", "accuracy"):
        table.add_column(title, justify="right" if title else "left")
    for stage in result.stages:
        accuracy = accuracy_of(stage)
        table.add_row(
            stage["name"],
            Text(stage["label"]),
            numbers.count(stage["macs"]),
            numbers.count(stage["params"]),
            "" if accuracy is None else numbers.percent(accuracy),
        )
    console.print(table)
    console.print(f"weights: [bold]{result.weights}[/]", soft_wrap=True)
    if result.report is None:
        console.print("no report: pip install 'secateur[report]'", markup=False, soft_wrap=True)
    else:
        console.print(f"report: [bold]{result.report}[/]", soft_wrap=True)
