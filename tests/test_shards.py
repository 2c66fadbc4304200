"""Training in shards (FSDP) by two processes of the CPU, against one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launching import HERE, compare, launch
from ranked_run import train_in_shards, train_tied
from secateur.recipes import run_recipe

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of every task, a folder each."""
    out = tmp_path_factory.mktemp("shards")
    tasks = ("shards", "shards_resume", "shards_tied", "shards_refused")
    launch(str(HERE / "ranked_run.py"), str(out), *tasks, folder=out, way="--use_fsdp")
    return out


def test_two_processes_train_in_shards_as_one(done: Path) -> None:
    """With batch norms, masks, AdamW, distillation, clipping and uneven last batches."""
    model, history = train_in_shards()
    compare(done / "shards", model, history)
    noted = [json.loads((done / "shards" / f"noted-{rank}.json").read_text()) for rank in range(2)]
    weights = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert [each["whole"] for each in noted] == [weights, weights]
    assert sum(each["moments"] for each in noted) == weights, "each keeps its own moments only"
    assert max(each["moments"] for each in noted) < 0.6 * weights


def test_they_go_on_from_a_checkpoint(done: Path) -> None:
    compare(done / "shards_resume", *train_in_shards())


def test_one_process_goes_on_from_their_checkpoint(done: Path) -> None:
    """The file is that of the whole model: it does not say how many made it."""
    compare(done / "shards", *train_in_shards(folder=done / "shards_resume" / "kept"))


def test_tied_weights_are_one_in_shards_too(done: Path) -> None:
    model, history = train_tied()
    assert model[2].weight is model[0].weight
    compare(done / "shards_tied", model, history)


def test_what_needs_the_whole_model_is_one_error_in_both(done: Path) -> None:
    for rank in range(2):
        said = (done / "shards_refused" / f"error-{rank}.txt").read_text()
        assert said.startswith("InputError: ema= averages whole weights")


RECIPE = """\
name: shards
model: {source: "secateur.models.resnet:SmallResNet", kwargs: {widths: [8, 16], blocks: 1}}
data: {source: "digits:8", batch_size: 100}
steps:
  - finetune: {epochs: 1, lr: 0.1}
  - prune: {budget: {macs: 0.6}, recalibrate: 2}
  - sparsify: {granularity: "2:4"}
  - finetune: {epochs: 2, lr: 0.02, distill: {}}
report: false
"""


@pytest.mark.slow
def test_a_recipe_in_shards_comes_to_what_one_process_comes_to(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    command = ["-m", "secateur", "run", str(recipe), "--out", str(tmp_path / "two")]
    launch(*command, folder=tmp_path, way="--use_fsdp")
    run_recipe(recipe, out=tmp_path / "one")
    ways = []
    for name in ("one", "two"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ways.append([json.loads(line) for line in lines if "epoch" in json.loads(line)])
    for ours, theirs in zip(*ways, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-4)
        assert theirs["val_loss"] == pytest.approx(ours["val_loss"], abs=1e-4)
    kept = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for key, value in kept[0].items():
        assert torch.allclose(kept[1][key], value, atol=1e-3), key
        if value.ndim > 1:
            assert torch.equal(kept[1][key] == 0, value == 0), key
