"""``secateur bench``: models timed against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.opening import consoles
from secateur.cli.options import InputShapes, Pretrained, Seed, parse_shape

__all__ = ["bench"]


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="torchvision:NAME, timm:NAME, hf:CONFIG-OR-FOLDER or package.module:callable; "
            "FILE.safetensors of --model; FILE.onnx; FILE.xml; or a run's folder.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="The dense model of weights in files."),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            "-r",
            help="torch, torch.compile, onnxruntime or openvino; repeat for several.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", "-b", min=1, help="Examples at once; repeat for several."),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16; repeat for several."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, help="PyTorch's choice; repeat for several."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed rounds, at most.")] = 100,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="For all that take turns; at least 5 rounds.")
    ] = 10.0,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare with what was measured here before."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="JSON; a picture goes beside it.")
    ] = Path("bench.json"),
    pretrained: Pretrained = False,
    input_shape: InputShapes = None,
    seed: Seed = 0,
) -> None:
    """Time models across runtimes, batch sizes, dtypes and threads, taking turns."""
    shapes = [parse_shape(text) for text in input_shape or []]

    import importlib.util

    from secateur.bench import Benchmark, Machine, draw, open_subjects
    from secateur.bench import bench as run
    from secateur.errors import InputError
    from secateur.files import replacing
    from secateur.progress import Steps

    earlier = None if against is None else Benchmark.load(against)
    if earlier is not None and earlier.machine != Machine.here():
        raise InputError(
            f"{against} was measured on another machine ({earlier.machine}), and times of two "
            "machines do not compare; measure both in one run here"
        )
    console, progress = consoles()
    with Steps(progress) as steps:
        with steps.step("Opening the models"):
            subjects = open_subjects(
                models, model=model, pretrained=pretrained, input_shapes=shapes, seed=seed
            )
        with steps.step("Timing") as tick:
            done = run(
                subjects,
                runtimes=runtime or ["torch"],
                batches=batch or [1],
                dtypes=dtype or ["float32"],
                threads=threads or [],
                runs=runs,
                seconds=seconds,
                progress=tick,
            )
    console.print(done.table(earlier))
    console.print(done.rounds, soft_wrap=True)
    for name, why in done.skipped:
        progress.print(f"skipped: {name}: {why}", soft_wrap=True, markup=False)
    console.print(f"times: [bold]{done.save(out)}[/]", soft_wrap=True)
    if importlib.util.find_spec("matplotlib") is None:
        progress.print("no picture: pip install 'secateur[report]'", markup=False)
        return
    with replacing(out.with_suffix(".svg")) as draft:
        draw(done).savefig(draft, metadata={"Date": None})
    console.print(f"picture: [bold]{out.with_suffix('.svg')}[/]", soft_wrap=True)
