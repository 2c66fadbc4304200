"""The report of a run, from what its stages noted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from secateur.allocation import Sensitivity
from secateur.plan import Plan, history
from secateur.profiling import Timing
from secateur.recipes.folder import START, RunFolder
from secateur.recipes.metrics import accuracy_of
from secateur.recipes.reading import Read
from secateur.recipes.sections import sections_of
from secateur.recipes.work import model_at
from secateur.recover import Epoch, History
from secateur.report import (
    Check,
    CoupledGroup,
    Milestone,
    Point,
    Report,
    Stage,
    numbers,
    write_report,
)
from secateur.report.collect import layer_widths, masked_weights, weight_histograms

__all__ = ["points_of", "stage_of", "write_summary"]

# Where exports are checked.
RUNTIMES = {
    "openvino": "OpenVINO", "torch": "PyTorch", "aoti": "AOTInductor", "executorch": "ExecuTorch"
}  # fmt: skip


def write_summary(
    read: Read,
    folder: RunFolder,
    stages: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    timings: Mapping[str, Timing],
    path: Path | None = None,
) -> Path:
    """Write the report of a run, ``report.html`` in its folder by default.

    Raises
    ------
    MissingExtraError
        When Jinja2 or matplotlib is not installed.
    """
    report = _report(read, folder, stages, environment, timings)
    return write_report(report, folder.path / "report.html" if path is None else path)


def _report(
    read: Read,
    folder: RunFolder,
    stages: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    timings: Mapping[str, Timing],
) -> Report:
    recipe, first, last = read.recipe, stages[0], stages[-1]
    dense, final = (model_at(read, folder, name) for name in (START, last["weights"]))
    noted = [stage["notes"] for stage in stages]
    decided = [notes for notes in noted if "settings" in notes]
    return Report(
        title=f"{recipe.model.source}: {recipe.name}",
        lead=f"{'; '.join(stage['label'] for stage in stages[1:])}.".capitalize(),
        before=stage_of(folder, first, timings.get("dense")),
        after=stage_of(folder, last, timings.get("final")),
        milestones=_milestones(stages),
        checks=_checks(stages),
        widths=layer_widths(final, _dense_shapes(final)),
        histograms=weight_histograms(dict(dense.named_parameters()), final),
        groups=_groups(noted),
        histories={
            stage["name"]: History([_epoch(line) for line in stage["metrics"]])
            for stage in stages
            if stage["metrics"]
        },
        skipped=list({name: why for notes in decided for name, why in notes["skipped"]}.items()),
        settings={"seed": recipe.seed} | (decided[-1]["settings"] if decided else {}),
        environment=environment,
        notes=["MACs are those of one example."] + [r for n in noted for r in n.get("remarks", [])],
        points=points_of(stages),
        masks=masked_weights(final),
        scan=_scan(noted),
        sections=list(sections_of(stages, final)),
        recipe=(folder.path / "recipe.yaml").read_text(encoding="utf-8"),
    )


def stage_of(folder: RunFolder, stage: Mapping[str, Any], latency: Timing | None) -> Stage:
    """One side of a comparison."""
    costs = {key: stage[key] for key in ("macs", "params", "nonzero", "bytes", "accuracy")}
    size = folder.weights(stage["weights"]).stat().st_size
    return Stage(**costs, file_bytes=size, torch_latency=latency)


def _milestones(stages: Sequence[Mapping[str, Any]]) -> list[Milestone]:
    """The accuracy on the way."""
    return [Milestone(point.label, point.accuracy) for point in points_of(stages)]


def points_of(stages: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Accuracy and MACs after every step that changed the model, and of what was quantised."""
    found = []
    for stage in stages:
        accuracy, int8 = accuracy_of(stage), stage["notes"].get("int8", False)
        if accuracy is not None and (int8 or stage["weights"] == stage["name"]):
            found.append(Point(stage["label"], stage["macs"], accuracy, int8))
    return found


def _groups(noted: Sequence[Mapping[str, Any]]) -> list[CoupledGroup]:
    """The groups of the last step that took units out, beside their sizes before the first."""
    steps = [notes["groups"] for notes in noted if notes.get("groups")]
    dense: dict[str, int] = {}
    for step in steps:
        for group in step:
            dense.setdefault(group["name"], group["before"])
    last = steps[-1] if steps else []
    return [CoupledGroup(**{**_tuples(each), "before": dense[each["name"]]}) for each in last]


def _scan(noted: Sequence[Mapping[str, Any]]) -> Sensitivity | None:
    """The last scan that an allocation made, or was given."""
    found = [notes["scan"] for notes in noted if "scan" in notes]
    return Sensitivity.from_json(json.dumps(found[-1])) if found else None


def _checks(stages: Sequence[Mapping[str, Any]]) -> list[Check]:
    checks = []
    for stage in stages:
        error, notes = stage["notes"].get("error"), stage["notes"]
        if error is None:
            continue
        if "settings" in notes:
            text = "computes what the masked model does; largest difference"
        elif notes.get("int8"):
            text = "differs, being rounded, by this share of the largest output:"
        else:
            runtime = RUNTIMES.get(notes.get("target", "onnx"), "ONNX Runtime")
            text = f"computes in {runtime} what the model does; largest difference"
        size = f", {numbers.bytes_text(notes['bytes'])}" if "bytes" in notes else ""
        checks.append(Check(f"{stage['name']} {text} {error:.2g}", f"{stage['label']}{size}"))
    return checks


def _dense_shapes(model: nn.Module) -> Plan:
    """A plan that knows the shapes before all that was done."""
    shapes: dict[str, list[int]] = {}
    for plan in history(model):
        for name, shape in plan.shapes.items():
            shapes.setdefault(name, shape)
    return Plan(shapes=shapes)


def _epoch(line: Mapping[str, Any]) -> Epoch:
    return Epoch(number=line["epoch"], **{k: v for k, v in line.items() if k != "epoch"})


def _tuples(group: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in group.items()}
