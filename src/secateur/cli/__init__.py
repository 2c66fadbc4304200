"""The command line."""

from __future__ import annotations

from typing import Annotated

import typer

from secateur.cli import commands
from secateur.cli.bench import bench
from secateur.cli.group import OneLineErrors
from secateur.cli.listing import list_names
from secateur.cli.opening import keep_quiet
from secateur.cli.prune import prune
from secateur.cli.recipes import init, report, run
from secateur.cli.sensitivity import sensitivity

__all__ = ["app"]

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no remarks; before or after.")
    ] = False,
) -> None:
    """Prune any PyTorch model physically and exactly, and prove it."""
    keep_quiet(quiet)
    if version:
        commands.version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(commands.demo)
app.command()(run)
app.command()(init)
app.command()(report)
app.command()(prune)
app.command()(commands.profile)
app.command()(sensitivity)
app.command()(commands.export)
app.command()(bench)
app.command("list")(list_names)
app.command()(commands.version)
