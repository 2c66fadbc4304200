"""Quantisation as a step of a recipe: trained for, compared at four corners, and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.recipe_runs import SMALL

import secateur as sc
from secateur.errors import RecipeError
from secateur.export.check import OnnxSession
from secateur.models import SmallResNet
from secateur.recipes import read_recipe, run_recipe
from secateur.recipes.sections import corner_section
from secateur.recipes.tasks import tasks_of
from secateur.recover.checkpoint import Checkpoint

for _name in ("onnxruntime", "onnxscript", "matplotlib", "jinja2"):
    pytest.importorskip(_name)

STEPS = [
    {"finetune": {"epochs": 2, "lr": 0.1}},
    {"sparsify": {"budget": {"sparsity": 0.6}}},
    {"quantize": {"batches": 2, "finetune": {"epochs": 1, "lr": 0.01}}},
]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    values = yaml.safe_load(SMALL) | {"steps": STEPS, "report": {"seconds": 0.2}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_four_corners_are_measured_and_shown(recipe: Path, tmp_path: Path) -> None:
    result = run_recipe(recipe, out=tmp_path / "run")
    assert [stage["name"] for stage in result.stages] == [
        "00-start", "01-finetune", "02-sparsify", "03-finetune", "04-quantize"
    ]  # fmt: skip
    assert result.stages[3]["label"] == "trained for 1 epochs in 8-bit steps"
    notes = result.stages[-1]["notes"]
    corners = {(each["model"], each["numbers"]): each for each in notes["corners"]}
    assert list(corners) == [
        ("dense", "float32"), ("dense", "int8"), ("pruned", "float32"), ("pruned", "int8")
    ]  # fmt: skip
    for each in corners.values():
        assert each["ms"] > 0 and 0 <= each["accuracy"] <= 1 and len(each["samples"]) >= 5
    assert len({len(each["samples"]) for each in corners.values()}) == 1
    assert corners["pruned", "int8"]["accuracy"] == notes["accuracy"]
    assert corners["dense", "int8"]["bytes"] < corners["dense", "float32"]["bytes"]
    # The float corner is the model of the run itself.
    assert corners["pruned", "float32"]["accuracy"] == pytest.approx(result.stages[-1]["accuracy"])
    page = (tmp_path / "run" / "report.html").read_text()
    for said in (
        "Pruned and quantised",
        "pruned, int8",
        "as fast as the first",
        "Without its zeros",
    ):
        assert said in page
    # Zeros stayed, and the weights lie on the grid that they were trained for.
    model = sc.load(SmallResNet(widths=[8, 16], blocks=1), result.weights)
    masks = sc.masks_of(model)
    assert masks and not any(model.get_parameter(name)[~masks[name]].any() for name in masks)
    for name in masks:
        steps = model.get_parameter(name).flatten(1)
        steps = steps / steps.abs().amax(1, keepdim=True).clamp_min(1e-30) * 64
        assert torch.allclose(steps, steps.round(), atol=1e-3)
    (rounded,) = OnnxSession(tmp_path / "run" / "exports" / "quantized.onnx")(
        ["x"], [torch.rand(3, 1, 8, 8)]
    )
    assert rounded.shape == (3, 10)


def test_a_training_for_integers_that_was_stopped_goes_on_to_the_same_bits(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranges of the activations are kept with the rest."""
    overrides = ["steps.quantize.finetune.epochs=3", "steps.quantize.compare=false", "report=false"]
    whole = run_recipe(recipe, overrides, out=tmp_path / "whole")

    class Stopped(Exception):
        pass

    save = Checkpoint.save

    def stopping(self: Checkpoint, state: Mapping[str, Any]) -> None:
        save(self, state)
        if "03-finetune" in str(self.path):
            raise Stopped

    monkeypatch.setattr(Checkpoint, "save", stopping)
    with pytest.raises(Stopped):
        run_recipe(recipe, overrides, out=tmp_path / "stopped")
    monkeypatch.undo()
    resumed = run_recipe(recipe, overrides, out=tmp_path / "stopped", resume=True)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()


def test_the_training_comes_before_the_step_and_knows_its_range(recipe: Path) -> None:
    read = read_recipe(
        recipe, ["steps.quantize.reduce_range=false", "steps.quantize.method=dynamic"]
    )
    aware = tasks_of(read.recipe)[2].options.quantize_aware
    assert aware.reduce_range is False and aware.activations is False
    with pytest.raises(RecipeError, match="target"):
        read_recipe(recipe, ["steps=[{export: {target: opnvino}}]"])


def test_without_pruning_there_are_two_corners(recipe: Path, tmp_path: Path) -> None:
    overrides = ["steps=[{quantize: {batches: 1}}]"]
    notes = run_recipe(recipe, overrides, out=tmp_path / "run").stages[-1]["notes"]
    assert [(each["model"], each["numbers"]) for each in notes["corners"]] == [
        ("dense", "float32"), ("dense", "int8")
    ]  # fmt: skip
    section = corner_section(notes["corners"])
    assert section.rows[0][-1].startswith("1.0") and len(section.rows) == 2
    assert json.dumps(notes)
