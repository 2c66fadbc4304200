"""The commands. Each imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.opening import consoles, open_model
from secateur.cli.options import RANDOM, InputShapes, Model, Pretrained, Seed, Weights

__all__ = ["demo", "export", "profile", "version"]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to fill.")] = Path("runs/demo"),
    macs: Annotated[float, typer.Option(help="Fraction of the MACs that remains.")] = 0.5,
    criterion: Annotated[str, typer.Option(help="How channels are scored.")] = "magnitude",
    epochs: Annotated[int, typer.Option(min=1, help="Of training.")] = 8,
    recovery_epochs: Annotated[int, typer.Option(min=1, help="Of training after pruning.")] = 4,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Train, prune, recover, verify, export and report on real data, in about a minute."""
    # Threads that spin while they wait keep the processor from those that they wait for: beside
    # other work, training takes five times as long. OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from secateur.cli.show import show_demo
    from secateur.demo import run_demo

    console, progress = consoles()
    result = run_demo(
        out,
        epochs=epochs,
        recovery_epochs=recovery_epochs,
        macs=macs,
        criterion=criterion,
        seed=seed,
        console=progress,
    )
    show_demo(console, result.content, result.seconds, str(result.report))
    if not all(check.passed for check in result.content.checks):
        raise typer.Exit(1)


def profile(
    model: Model,
    weights: Weights = None,
    pretrained: Pretrained = False,
    input_shape: InputShapes = None,
    latency: Annotated[bool, typer.Option("--latency", help="Time it as well.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to time it with; PyTorch's choice.")
    ] = None,
    storage: Annotated[
        bool, typer.Option("--storage", help="Count the bytes of a sparse file as well.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="List every layer.")] = False,
    seed: Seed = 0,
) -> None:
    """Count MACs, parameters and bytes, layer by layer; measure latency on request."""
    from secateur.profiling import profile as run

    console, progress = consoles()
    net, inputs, _ = open_model(
        model, pretrained=pretrained, weights=weights, input_shapes=input_shape, seed=seed
    )
    options = {} if threads is None or not latency else {"threads": threads}
    with progress.status("timing" if latency else "counting"):
        cost = run(net, inputs, latency, storage, **options)
    console.print(f"[bold]{model}[/]: {cost.summary}", soft_wrap=True)
    console.print(cost.table(None) if every else cost.table())
    if cost.storage is not None:
        console.print(cost.storage.table())
    if cost.uncounted:
        console.print(f"not counted: {', '.join(cost.uncounted)}", soft_wrap=True)


def export(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="onnx, openvino, torch, aoti, executorch or tensorrt; what the file's name ends "
            "in says by default.",
        ),
    ] = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    input_shape: InputShapes = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch/--fixed-batch", help="Leave the batch size free.")
    ] = True,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; PyTorch's choice.")] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare what the runtime computes.")
    ] = True,
    seed: Seed = 0,
) -> None:
    """Export a model, pruned or not, for a runtime, and check what it computes there."""
    import warnings

    console, progress = consoles()
    net, inputs, random = open_model(
        model, pretrained=pretrained, weights=weights, input_shapes=input_shape, seed=seed
    )

    from secateur.export import export as run

    with progress.status("exporting"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        written = run(
            net,
            inputs,
            out,
            target=target,
            dynamic_batch=dynamic_batch,
            opset=opset,
            check=check,
        )
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            progress.print(f"[yellow]note:[/] {' '.join(str(warning.message).split())}")
    if random:
        progress.print(RANDOM)
    checked = (
        "not checked"
        if written.error is None
        else f"the runtime differs by {written.error:.2g} of the largest output"
    )
    version = "" if written.opset is None else f"opset {written.opset}, "
    console.print(
        f"exported: [bold]{written.path}[/] ({written.size:,} bytes, {version}"
        f"{'free' if written.dynamic else 'fixed'} batch size; {checked})",
        soft_wrap=True,
    )
    if written.command is not None:
        console.print(f"elsewhere: {written.command}", soft_wrap=True, markup=False)


def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from secateur import __version__

    try:
        beside = f" (torch {installed('torch')})"
    except PackageNotFoundError:
        beside = ""
    typer.echo(f"secateur {__version__}{beside}")
