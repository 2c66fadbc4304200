"""``secateur sensitivity``: what it costs to prune each part of a model alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.group import when_stopped
from secateur.cli.opening import consoles, open_model
from secateur.cli.options import (
    RANDOM,
    Address,
    EngineName,
    InputShapes,
    Model,
    Pretrained,
    Seed,
    Weights,
)
from secateur.cli.search import engine_of

if TYPE_CHECKING:
    from rich.table import Table

    from secateur.allocation import Sensitivity

__all__ = ["sensitivity"]


def sensitivity(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="Whose validation part the accuracy is of: digits or package.module:callable."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the table as JSON, too."),
    ] = None,
    granularity: Annotated[str, typer.Option(help="What is removed as one unit.")] = "channel",
    criterion: Annotated[str, typer.Option(help="How units are scored.")] = "magnitude",
    ratio: Annotated[
        list[float] | None,
        typer.Option("--ratio", "-r", help="Share that goes; repeat for several; 0.1 to 0.9."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="PATTERN", help="Modules left whole; repeat for several."),
    ] = None,
    min_keep: Annotated[int, typer.Option(min=1, help="Units that every layer keeps.")] = 1,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep every value; a scan that was stopped goes on."),
    ] = None,
    engine: EngineName = "in_process",
    address: Address = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a batch of data.")] = 64,
    weights: Weights = None,
    pretrained: Pretrained = False,
    input_shape: InputShapes = None,
    seed: Seed = 0,
) -> None:
    """Measure how the accuracy falls when each layer alone is pruned, at several shares."""
    from secateur.data import load_data
    from secateur.files import replacing
    from secateur.progress import Steps
    from secateur.scan import Evaluation
    from secateur.sensitivity import RATIOS
    from secateur.sensitivity import sensitivity as run

    if cache is not None:
        when_stopped(f"the same command goes on from {cache}")
    workers = engine_of(engine, address)
    console, progress = consoles()
    with Steps(progress) as steps:
        with steps.step("Building the model"):
            net, inputs, random = open_model(
                model, pretrained=pretrained, weights=weights, input_shapes=input_shape, seed=seed
            )
            splits = load_data(data, seed=seed)
        with steps.step("Trying out") as tick:
            table = run(
                net,
                inputs,
                Evaluation(splits.val.batches(batch_size)),
                granularity=granularity,
                criterion=criterion,
                ratios=ratio or RATIOS,
                ignore=ignore or (),
                min_keep=min_keep,
                data=splits.train.batches(batch_size),
                seed=seed,
                engine=workers,
                cache=cache,
                progress=tick,
            )
    if random:
        progress.print(RANDOM)
    console.print(f"[bold]{model}[/]: accuracy {table.baseline:.2%}; points lost without")
    console.print(drops_table(table))
    if out is not None:
        with replacing(out) as draft:
            draft.write_text(table.to_json(), encoding="utf-8")
        console.print(f"table: [bold]{out}[/]", soft_wrap=True)


def drops_table(table: Sensitivity) -> Table:
    """Points of accuracy that each group loses, a column per share."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, padding=(0, 1), header_style="dim")
    shown.add_column("")
    for ratio in table.ratios:
        shown.add_column(f"{ratio:.0%}", justify="right")
    for curve in table:
        cells = []
        for ratio in table.ratios:
            # Groups lose whole units: as many as do not exceed the share.
            reached = [at for at, own in enumerate(curve.ratios) if own <= ratio + 1e-9]
            cells.append(f"{100 * curve.drops[reached[-1]]:.1f}" if reached else "·")
        shown.add_row(Text(curve.name), *cells)
    return shown
