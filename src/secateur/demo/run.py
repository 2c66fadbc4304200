"""The whole way on real data: train, prune, recover, verify, save, export, time, report."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from secateur.data import load_data
from secateur.demo import stages
from secateur.errors import require
from secateur.export import export
from secateur.export.check import OnnxSession
from secateur.files import replacing
from secateur.persist import save
from secateur.profiling import Timing, compare, profile
from secateur.progress import Steps
from secateur.recover import accuracy
from secateur.report import Milestone, Report, Stage, write_report
from secateur.report.collect import (
    coupled_groups,
    environment,
    layer_widths,
    weight_histograms,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DemoResult", "run_demo"]

_NEEDED = {
    "sklearn": "demo",
    "matplotlib": "report",
    "jinja2": "report",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What `run_demo` leaves behind.

    Attributes
    ----------
    report : pathlib.Path
        The HTML page. Beside it lie ``small.safetensors``, ``small.onnx``, their dense
        counterparts, ``plan.json`` and ``metrics.json``.
    content : Report
        Everything on the page.
    seconds : float
        Wall time.
    """

    report: Path
    content: Report
    seconds: float


def run_demo(
    out: str | Path = "runs/demo",
    *,
    epochs: int = 8,
    recovery_epochs: int = 4,
    macs: float = 0.5,
    criterion: str = "magnitude",
    round_to: int = 4,
    size: int = 16,
    seed: int = 0,
    timed_runs: int = 200,
    timed_seconds: float = 5.0,
    console: Console | None = None,
) -> DemoResult:
    """Take a small ResNet the whole way on scikit-learn's handwritten digits.

    The network is trained, pruned to half of its MACs, recalibrated and recovered, saved,
    loaded back into a freshly built dense model and compared bit for bit, exported to ONNX and
    run in ONNX Runtime, and timed against the dense model, interleaved. About a minute on two
    cores; nothing is downloaded.

    Parameters
    ----------
    out : path-like
        Folder for the files; created as needed.
    epochs, recovery_epochs : int
        Of training, and of training after pruning.
    macs : float
        Fraction of the dense MACs that remains, at most.
    criterion : str
        How channels are scored; gradients are taken on the training part where it needs them.
    round_to : int
        Channels kept per layer are a multiple of this.
    size : int
        Height and width of the images, pixels.
    seed : int
        Of the split, the initial weights, the batches and the pruning.
    timed_runs : int
        Timed rounds per latency measurement; fewer where the seconds run out.
    timed_seconds : float
        Seconds per latency measurement.
    console : rich.console.Console, optional
        Where progress goes; silent by default.

    Returns
    -------
    DemoResult

    Raises
    ------
    MissingExtraError
        When the packages of ``secateur[demo]`` are not installed.
    """
    for module, extra in _NEEDED.items():
        require(module, extra)
    started = time.perf_counter()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with Steps(console, shortest=0) as steps:
        data = load_data(f"digits:{size}", seed=seed)
        test = data.test.batches(stages.EVALUATION_BATCH)
        images = data.test.inputs[: stages.BATCH]
        dense, training = stages.train(data, epochs, seed, steps)
        milestones = [Milestone("dense, trained", accuracy(dense, test))]

        model = copy.deepcopy(dense)
        result = stages.cut(model, data, macs, criterion, round_to, seed, steps)
        milestones.append(Milestone("right after pruning", accuracy(model, test)))
        recovery, more = stages.win_back(model, data, recovery_epochs, seed, steps, test)
        milestones.extend(more)

        checks = [stages.parity_check(result), stages.budget_check(result, macs)]
        with steps.step("Saving and loading back"):
            files = {
                name: save(each, folder / f"{name}.safetensors")
                for name, each in (("dense", dense), ("small", model))
            }
            checks.append(stages.reload_check(model, files["small"], data.test.inputs))
        with steps.step("Exporting and running ONNX"):
            exported = {
                name: export(each, images[:2], folder / f"{name}.onnx")
                for name, each in (("dense", dense), ("small", model))
            }
            sessions = {name: OnnxSession(each.path) for name, each in exported.items()}
            entry = exported["small"].inputs[0]
            checks.append(stages.onnx_check(sessions["small"], entry, model, data))
        options: dict[str, Any] = {"runs": timed_runs, "seconds": timed_seconds}
        with steps.step("Timing both in PyTorch"):
            in_torch = compare({"dense": dense, "small": model}, images, **options)
        with steps.step("Timing both in ONNX Runtime"):
            in_onnx = stages.onnx_timings(sessions, entry, images, options)

        def stage(name: str, each: nn.Module, milestone: Milestone) -> Stage:
            cost = profile(each, data.example_inputs)
            return Stage(
                macs=cost.macs,
                params=cost.params,
                nonzero=cost.nonzero,
                bytes=cost.bytes,
                accuracy=milestone.accuracy,
                file_bytes=files[name].stat().st_size,
                onnx_bytes=exported[name].size,
                torch_latency=in_torch[name],
                onnx_latency=in_onnx[name],
            )

        share = "half" if macs == 0.5 else f"{100 * macs:.0f} %"
        with steps.step("Writing the report"):
            report = Report(
                title=f"A small ResNet, pruned to {share} of its MACs",
                lead=(
                    f"Trained on {len(data.train)} of scikit-learn's handwritten digits, pruned, "
                    f"recovered, and measured on {len(data.test)} digits that neither training "
                    "nor pruning has seen."
                ),
                before=stage("dense", dense, milestones[0]),
                after=stage("small", model, milestones[-1]),
                milestones=milestones,
                checks=checks,
                widths=layer_widths(model, result.plan),
                histograms=weight_histograms(dict(dense.named_parameters()), model),
                groups=coupled_groups(result.groups, model),
                histories={"training": training, "recovery": recovery},
                skipped=result.skipped,
                settings=result.plan.settings,
                environment=environment(),
                notes=[
                    "MACs are those of one image. In each latency row both models took turns in "
                    "one run; the difference is the median of the ratios, turn by turn."
                ],
            )
            with replacing(folder / "plan.json") as draft:
                draft.write_text(result.plan.to_json(), encoding="utf-8")
            page = write_report(report, folder / "report.html")
        seconds = time.perf_counter() - started
        with replacing(folder / "metrics.json") as draft:
            draft.write_text(_metrics(report, seconds), encoding="utf-8")
    return DemoResult(page, report, seconds)


def _metrics(report: Report, seconds: float) -> str:
    """The numbers of the page, for programs."""
    sides = {"before": report.before, "after": report.after}
    values: dict[str, Any] = {"seconds": round(seconds, 2)}
    for side, stage in sides.items():
        plain = dataclasses.asdict(
            dataclasses.replace(stage, torch_latency=None, onnx_latency=None)
        )
        for key in ("torch_latency", "onnx_latency"):
            timing = getattr(stage, key)
            plain[key] = None if timing is None else _timing(timing)
        values[side] = plain
    values["milestones"] = {each.label: each.accuracy for each in report.milestones}
    values["checks"] = {each.label: each.passed for each in report.checks}
    return json.dumps(values, indent=2)


def _timing(timing: Timing) -> dict[str, Any]:
    return {
        "median_ms": timing.median_ms,
        "spread_ms": timing.spread_ms,
        "runs": timing.runs,
        "threads": timing.threads,
        "batch": timing.batch,
    }
