"""The report of a run, from what its stages noted."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.files import replacing
from secateur.plan import Plan, history
from secateur.profiling import Timing, compare
from secateur.recipes.folder import START
from secateur.recipes.work import Work
from secateur.recover import Epoch, History
from secateur.report import Check, CoupledGroup, Milestone, Report, Stage, write_report
from secateur.report.collect import layer_widths, weight_histograms

__all__ = ["write_summary"]

TIMED_BATCH = 64


def write_summary(
    work: Work, stages: Sequence[Mapping[str, Any]], environment: Mapping[str, str]
) -> Path | None:
    """Write ``report.html``; None where what draws it is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("matplotlib", "jinja2")):
        return None
    report = _report(work, stages, environment)
    path = work.folder.path / "report.html"
    with replacing(path) as draft:
        write_report(report, draft)
    return path


def _report(
    work: Work, stages: Sequence[Mapping[str, Any]], environment: Mapping[str, str]
) -> Report:
    recipe, first, last = work.recipe, stages[0], stages[-1]
    dense, final = work.model_at(START), work.model_at(last["weights"])
    timings = _timings(work, dense, final)
    noted = [stage["notes"] for stage in stages]
    decided = [notes for notes in noted if "settings" in notes]
    return Report(
        title=f"{recipe.model.source}: {recipe.name}",
        lead=f"{'; '.join(stage['label'] for stage in stages[1:])}.".capitalize(),
        before=_stage(work, first, timings.get("dense")),
        after=_stage(work, last, timings.get("final")),
        milestones=_milestones(stages),
        checks=_checks(stages),
        widths=layer_widths(final, _dense_shapes(final)),
        histograms=weight_histograms(dict(dense.named_parameters()), final),
        groups=[CoupledGroup(**_tuples(each)) for each in (decided or [{}])[-1].get("groups", [])],
        histories={
            stage["name"]: History([_epoch(line) for line in stage["metrics"]])
            for stage in stages
            if stage["metrics"]
        },
        skipped=list({name: why for notes in decided for name, why in notes["skipped"]}.items()),
        settings={"seed": recipe.seed} | (decided[-1]["settings"] if decided else {}),
        environment=environment,
        notes=["MACs are those of one example."] + [r for n in noted for r in n.get("remarks", [])],
    )


def _stage(work: Work, stage: Mapping[str, Any], latency: Timing | None) -> Stage:
    costs = {key: stage[key] for key in ("macs", "params", "nonzero", "bytes", "accuracy")}
    size = work.folder.weights(stage["weights"]).stat().st_size
    return Stage(**costs, file_bytes=size, torch_latency=latency)


def _milestones(stages: Sequence[Mapping[str, Any]]) -> list[Milestone]:
    """The accuracy after every step that changed the model, and of what was quantised."""
    found = []
    for stage in stages:
        if stage["weights"] == stage["name"] and stage["accuracy"] is not None:
            found.append(Milestone(stage["label"], stage["accuracy"]))
        elif stage["notes"].get("accuracy") is not None:
            found.append(Milestone(stage["label"], stage["notes"]["accuracy"]))
    return found


def _checks(stages: Sequence[Mapping[str, Any]]) -> list[Check]:
    checks = []
    for stage in stages:
        error, notes = stage["notes"].get("error"), stage["notes"]
        if error is None:
            continue
        if "settings" in notes:
            text = "computes what the masked model does; largest difference"
        elif "dense_bytes" in notes:
            text = "differs, being rounded, by this share of the largest output:"
        else:
            text = "computes in ONNX Runtime what the model does; largest difference"
        checks.append(Check(f"{stage['name']} {text} {error:.2g}", stage["label"]))
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


def _timings(work: Work, dense: nn.Module, final: nn.Module) -> dict[str, Timing]:
    """Both models, taking turns."""
    if not work.recipe.report.latency:
        return {}
    inputs = work.inputs
    if work.data is not None:
        batch = next(iter(work.data.test.batches(TIMED_BATCH)))[0]
        if isinstance(batch, Tensor):
            inputs = dataclasses.replace(inputs, args=(batch,), kwargs={})
    with torch.random.fork_rng(devices=[]):
        return compare({"dense": dense, "final": final}, inputs, seconds=work.recipe.report.seconds)
