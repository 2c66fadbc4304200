"""ResNet-56 at half of its MACs by one recipe, and what came out of every step.

Carries ``benchmarks/recipes/resnet56_cifar10.yaml`` out, or goes on with a run that was ended, and
times the dense model and the exports of the run in ONNX Runtime, taking turns.

    python -m benchmarks.resnet56_recipe
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import torch

import secateur as sc
from benchmarks.cifar_resnet import CifarResNet
from benchmarks.common import DOCS, ROOT, heading, machine, markdown_table, write_results
from secateur.latency.runtimes import OnnxRuntime
from secateur.profiling import Timing, interleave
from secateur.recipes import RunResult, run_recipe

NAME = "resnet56_recipe"
RECIPE = ROOT / "benchmarks" / "recipes" / "resnet56_cifar10.yaml"
BATCHES = (1, 64)
DENSE, PRUNED, QUANTIZED = "dense", "pruned", "pruned, int8"
EIGHTS = "by magnitude to the same MACs, round_to=8"


def shipped(run: RunResult) -> dict[str, bytes]:
    """As ONNX: the dense model after its training, the pruned one, that in 8 bits, and for its
    latency alone one whose widths are multiples of 8."""
    dense = sc.load(
        CifarResNet(blocks=9), run.folder / "stages" / "01-finetune" / "weights.safetensors"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dense.onnx"
        image = torch.zeros(1, 3, 32, 32)
        sc.export(dense.eval(), image, file)
        found = {DENSE: file.read_bytes()}
        sc.prune(dense, image, budget={"macs": 0.5}, allocation="isomorphic", round_to=8)
        sc.export(dense, image, file)
        return found | {
            EIGHTS: file.read_bytes(),
            PRUNED: (run.folder / "exports" / "model.onnx").read_bytes(),
            QUANTIZED: (run.folder / "exports" / "quantized.onnx").read_bytes(),
        }


def timed(files: dict[str, bytes], batch: int, threads: int, seconds: float) -> dict[str, Timing]:
    """Calls of all of them, taking turns."""
    images = torch.rand(batch, 3, 32, 32).numpy()
    runtime = OnnxRuntime(torch.float32, torch.device("cpu"), threads)
    calls = {}
    for name, model in files.items():
        [image] = onnx.load_from_string(model).graph.input
        calls[name] = runtime.load(model, {image.name: images})
    return interleave(calls, runs=100, warmup=5, seconds=seconds, threads=threads)


def summary(run: RunResult, threads: int, seconds: float) -> dict[str, Any]:
    """What the page says, as JSON values."""
    files, ratios = shipped(run), {}
    for batch in BATCHES:
        found = timed(files, batch, threads, seconds)
        ratios[batch] = {name: timing.ratio(found[DENSE]) for name, timing in found.items()}
    kept = ("name", "label", "macs", "params", "accuracy", "loss", "seconds", "notes")
    return {
        "machine": machine(threads, ["onnxruntime"]),
        "stages": [{key: stage.get(key) for key in kept} for stage in run.stages],
        "dense_bytes": len(files[DENSE]),
        "latency": ratios,
    }


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def page(found: dict[str, Any]) -> str:
    """Lay the page out."""
    stages = found["stages"]
    weights = [stage for stage in stages if "file" not in stage["notes"]]
    start, dense, final = weights[0], weights[1], weights[-1]
    quantized = next(stage["notes"] for stage in stages if "dense_bytes" in stage["notes"])
    exported = next(
        stage["notes"] for stage in stages if stage["notes"].get("file") == "model.onnx"
    )
    rows = [
        [f"`{stage['name']}`", stage["label"], f"{stage['macs'] / 1e6:.1f} M",
         f"{stage['params'] / 1e3:.0f} k", percent(stage["accuracy"]),
         f"{stage['seconds'] / 60:.1f}"]
        for stage in weights
    ]  # fmt: skip
    files = [
        [name, f"{size / 1e6:.2f} MB", percent(accuracy),
         *(f"{ratios[name]:.2f}" for ratios in found["latency"].values())]
        for name, size, accuracy in (
            (DENSE, found["dense_bytes"], dense["accuracy"]),
            (PRUNED, exported["bytes"], final["accuracy"]),
            (QUANTIZED, quantized["bytes"], quantized["accuracy"]),
        )
    ]  # fmt: skip
    recipe = RECIPE.read_text().rstrip()
    return "\n\n".join([
        "# ResNet-56 by one recipe",
        f"A trained ResNet-56 for CIFAR-10 goes from {dense['macs'] / 1e6:.0f} to "
        f"{final['macs'] / 1e6:.0f} million MACs in three steps, with an epoch of training after "
        f"each and {_epochs(stages)} at the end, taught by the dense model. On the 10,000 test "
        f"images it is right about {percent(final['accuracy'])}, where the dense model is about "
        f"{percent(dense['accuracy'])}, and {percent(quantized['accuracy'])} in 8-bit integers.",
        "The images are CIFAR-10's, encoded as JPEG, and the weights are of the original pixels: "
        f"right about {percent(start['accuracy'])} as they are. So the recipe trains the dense "
        "model on these images first, and that is what it is compared with and taught by.",
        f"```yaml\n{recipe}\n```",
        f"```\nsecateur run {RECIPE.relative_to(ROOT)}\n```",
        "## After every step",
        "Accuracy on the test part, which nothing was trained on or chosen by.",
        markdown_table(
            ["stage", "", "MACs", "parameters", "accuracy", "minutes"], rows, left=2
        ),
        f"![Accuracy against MACs over the run: every cut to the left and down, every training up "
        f"again.]({NAME}.svg)",
        "## What is shipped",
        markdown_table(
            ["file", "size", "accuracy",
             *(f"latency, batch {batch}" for batch in found["latency"])], files
        ),
        "Latency in ONNX Runtime, relative to the dense model exported the same way (medians of "
        "calls in turns). The recipe takes channels wherever they matter least, and layers of 13 "
        "of 16 channels cost the runtime nearly what 16 do: " + _eights(found["latency"]),
        "The run leaves its [report](../how-to/read-the-report.md) as `report.html`.",
        "## How it was measured",
        f"{heading(found['machine'])}. Made by `python -m benchmarks.{NAME}`.",
    ])  # fmt: skip


def _eights(latency: dict[Any, dict[str, float]]) -> str:
    told = " and ".join(
        f"{ratios[EIGHTS]:.2f} at batch {batch}" for batch, ratios in latency.items()
    )
    return (
        f"with `round_to: 8` in the step `prune`, a model of the same MACs takes {told}. See "
        "[sizes that are fast](../how-to/alignment.md)."
    )


def _epochs(stages: list[dict[str, Any]]) -> str:
    last = [stage for stage in stages if stage["name"].endswith("finetune")][-1]
    return str(last["label"]).removeprefix("trained for ")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "resnet56-cifar10")
    parser.add_argument("--folder", type=Path, default=DOCS, help="where the page goes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="for each comparison")
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(options.threads)
    run = run_recipe(RECIPE, out=options.run, resume=options.run.exists())
    found = summary(run, options.threads, options.seconds)
    write_results(NAME, found, page(found), options.folder)
    figure = sc.plot.accuracy(run.folder)
    figure.savefig(options.folder / f"{NAME}.svg", metadata={"Date": None})
    print(json.dumps(found["latency"], indent=1))


if __name__ == "__main__":
    main()
