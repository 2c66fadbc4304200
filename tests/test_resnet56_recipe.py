"""The benchmark of one whole recipe: it can be carried out, and its page says what was measured."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from benchmarks.resnet56_recipe import EIGHTS, RECIPE, page

from secateur.recipes import preview, read_recipe
from secateur.recipes.reading import read_keys
from secateur.recipes.tasks import tasks_of

SHARED = Path(__file__).resolve().parents[2] / "shared"


def stage(
    name: str, label: str, macs: float, accuracy: float, notes: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"name": name, "label": label, "macs": macs * 1e6, "params": macs * 7e3,
            "accuracy": accuracy, "loss": 1.0, "seconds": 90.0, "notes": notes or {}}  # fmt: skip


FOUND: dict[str, Any] = {
    "machine": {"processor": "P", "cores": 2, "memory_gb": 24, "threads": 1, "python": "3",
                "system": "S", "versions": {"torch": "2"}},
    "stages": [
        stage("00-start", "at the start", 125, 0.8),
        stage("01-finetune", "trained for 2 epochs", 125, 0.9),
        stage("02-prune", "pruned", 62, 0.5),
        stage("03-finetune", "trained for 4 epochs", 62, 0.88),
        stage("04-export", "exported", 62, 0.88, {"file": "model.onnx", "bytes": 2_100_000}),
        stage("05-quantize", "quantized", 62, 0.88,
              {"file": "quantized.onnx", "bytes": 600_000, "dense_bytes": 2_100_000,
               "accuracy": 0.87}),
    ],
    "dense_bytes": 3_400_000,
    "latency": {1: {"dense": 1.0, "pruned": 0.6, "pruned, int8": 0.4, EIGHTS: 0.55}},
}  # fmt: skip


def test_the_recipe_prunes_to_half_in_steps_distils_quantises_and_exports() -> None:
    recipe = read_keys(RECIPE).recipe
    kinds = [task.kind for task in tasks_of(recipe)]
    assert kinds.count("prune") == 3
    assert {"finetune", "export", "quantize"} < {*kinds}
    last = [task for task in tasks_of(recipe) if task.kind == "prune"][-1]
    assert last.options.model_dump()["budget"] == {"macs": 0.5}
    taught = [task.options.model_dump()["distill"] for task in tasks_of(recipe)
              if task.kind == "finetune"]  # fmt: skip
    assert taught[0] is None
    assert [each["teacher"] for each in taught[1:]] == [1] * 4


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are absent")
def test_it_can_be_carried_out_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPE.parents[2])
    rows = preview(read_recipe(RECIPE)).lines
    assert rows[-1].macs <= 0.5 * rows[0].macs


def test_the_page_says_what_was_measured() -> None:
    text = page(FOUND)
    assert "from 125 to 62 million MACs" in text
    assert "about 88.00 %, where the dense model is about 90.00 %, and 87.00 % in 8-bit" in text
    assert "with an epoch of training after each and 4 epochs at the end" in text
    assert "| pruned, int8 | 0.60 MB | 87.00 % | 0.40 |" in text
    assert "| `02-prune` | pruned | 62.0 M | 434 k | 50.00 % | 1.5 |" in text
    assert "a model of the same MACs takes 0.55 at batch 1." in text
    assert RECIPE.read_text().strip() in text
    worse = copy.deepcopy(FOUND)
    worse["stages"][3]["accuracy"] = 0.7
    assert "about 70.00 %" in page(worse)
