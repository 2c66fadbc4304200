"""``secateur prune``: from a model to a smaller one in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.group import when_stopped
from secateur.cli.language import (
    blockwise,
    check_method,
    check_text,
    show_blockwise,
    text_options,
)
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
    parse_budget,
    parse_format,
    parse_rounding,
)
from secateur.cli.search import engine_of, latency_of, measure_of
from secateur.errors import InputError, NothingToPruneError
from secateur.files import replacing

__all__ = ["prune"]


def prune(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Pruned weights.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            metavar="macs=0.5",
            help="What remains, at most, of macs, params, bytes, activations, energy or latency "
            "(repeat for several), or, for sparse granularities, what becomes zero: sparsity=0.9.",
        ),
    ] = None,
    granularity: Annotated[str, typer.Option(help="What is removed as one unit.")] = "channel",
    criterion: Annotated[str, typer.Option(help="How units are scored.")] = "magnitude",
    allocation: Annotated[str, typer.Option(help="How the budget spreads over layers.")] = "global",
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="PATTERN", help="Modules left whole; repeat for several."),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="RUNTIME|FILE",
            help="For a budget of latency or --round-to auto: torch, torch.compile, onnxruntime or "
            "openvino to measure in, or a table that was measured.",
        ),
    ] = None,
    round_to: Annotated[
        str,
        typer.Option(
            metavar="8",
            help="Sizes are multiples of this; auto: the sizes after which the latency climbs; or "
            "rules for layers, as layer3.*=16,*=8.",
        ),
    ] = "1",
    min_keep: Annotated[int, typer.Option(min=1, help="Units that every layer keeps.")] = 1,
    prune_inputs: Annotated[
        bool, typer.Option("--prune-inputs", help="Input channels may go as well.")
    ] = False,
    prune_outputs: Annotated[
        bool, typer.Option("--prune-outputs", help="Outputs (classes) may go as well.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="For criteria that look at data, its training part, and for --evaluate accuracy: "
            "digits, text:PATH or package.module:callable."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="wanda|sparsegpt|magnitude",
            help="Make a language model sparse block by block instead, by --sparsity.",
        ),
    ] = None,
    sparsity: Annotated[
        str | None, typer.Option(metavar="2:4", help="For --method: a share as 0.5, or N:M.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of --data text:PATH, default the tokenizer.json of an hf:FOLDER, else bytes.",
        ),
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=2, help="Tokens in a sequence of --data text:PATH.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Sequences that --method looks at.")] = 128,
    evaluate: Annotated[
        str | None,
        typer.Option(
            metavar="accuracy",
            help="For allocations that try models out: accuracy on the validation part of --data, "
            "or package.module:function, from a model to a number, higher is better.",
        ),
    ] = None,
    engine: EngineName = "in_process",
    address: Address = None,
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep every value; a search that was stopped goes on."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a batch of data.")] = 32,
    weights: Weights = None,
    pretrained: Pretrained = False,
    input_shape: InputShapes = None,
    seed: Seed = 0,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove it against the masked model.")
    ] = True,
    compact: Annotated[
        bool, typer.Option("--compact", help="Then remove what has become all-zero.")
    ] = False,
    format: Annotated[
        str, typer.Option(metavar="dense|sparse", help="Of the file: with zeros, or without.")
    ] = "dense",
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Write the plan as JSON, too.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List all protected.")] = False,
) -> None:
    """Prune a model to a budget and save it."""
    # Without one, the granularity has its own default.
    limits = parse_budget(budget) if budget else None
    if compact and plan is not None:
        raise InputError("--compact makes a second plan and --plan writes one; leave one of them")
    stored = parse_format(format)
    rounding = parse_rounding(round_to)
    if compact and "auto" in (rounding.values() if isinstance(rounding, dict) else [rounding]):
        raise InputError("--compact does not know latencies; write --round-to with numbers only")
    workers, table = engine_of(engine, address), latency_of(latency)
    check_method(method, sparsity, limits, data, granularity)

    from rich.markup import escape

    from secateur.cli.show import show_pruned
    from secateur.persist import save
    from secateur.progress import Steps
    from secateur.prune import prune as run

    if journal is not None:
        when_stopped(f"the same command goes on from {journal}")
    console, progress = consoles()
    compacted, note = None, ""
    with Steps(progress) as steps:
        with steps.step("Building the model"):
            net, inputs, random = open_model(
                model,
                pretrained=pretrained,
                weights=weights,
                input_shapes=input_shape,
                seed=seed,
            )
            splits = None
            if data is not None:
                from secateur.data import load_data

                splits = load_data(data, seed=seed, **text_options(data, model, tokenizer, length))
                check_text(data, splits, net)
            measure = measure_of(evaluate, splits, batch_size)
        if method is not None and sparsity is not None and splits is not None:
            with steps.step("Pruning block by block") as tick:
                done = blockwise(net, splits, method, sparsity, samples, batch_size, ignore, tick)
            with steps.step("Saving"):
                saved = save(net, out)
            show_blockwise(console, done, saved)
            return
        with steps.step("Pruning" + (" and verifying" if verify else "")) as tick:
            result = run(
                net,
                inputs,
                granularity=granularity,
                criterion=criterion,
                allocation=allocation,
                budget=limits,
                ignore=ignore or (),
                latency=table,
                round_to=rounding,
                min_keep=min_keep,
                prune_inputs=prune_inputs,
                prune_outputs=prune_outputs,
                data=None if splits is None else splits.train.batches(batch_size),
                evaluate=measure,
                engine=workers,
                journal=journal,
                progress=tick,
                seed=seed,
                verify=verify,
            )
        if compact:
            with steps.step("Compacting"):
                try:
                    compacted = result.compact(
                        ignore=ignore or (), round_to=rounding, min_keep=min_keep, verify=verify
                    )
                except NothingToPruneError as error:
                    note = str(error)
        with steps.step("Saving"):
            saved = save(net, out, format=stored)
            if plan is not None:
                with replacing(plan) as draft:
                    draft.write_text(result.plan.to_json(), encoding="utf-8")
    if random:
        progress.print(RANDOM)
    show_pruned(console, result, model, verbose=verbose)
    if compacted is not None:
        show_pruned(console, compacted, model, verbose=verbose)
    elif note:
        progress.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    console.print(f"saved: [bold]{saved}[/] ({saved.stat().st_size:,} bytes)", soft_wrap=True)
    if plan is not None:
        console.print(f"plan: [bold]{plan}[/]", soft_wrap=True)
