"""Training in shards (FSDP) by two processes of the CPU, against one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launching import HERE, compare, launch
from ranked_run import train_in_shards, train_tied

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
