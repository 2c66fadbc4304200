"""Two processes of the CPU (gloo), started by ``accelerate launch``, against one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import secateur as sc
from launching import HERE, compare, launch
from ranked_run import train, train_on_files, train_on_loader, write_pictures
from recovering import images, net
from secateur.errors import InputError, SecateurError
from secateur.ranks import ALONE, found_ranks
from secateur.recipes import run_recipe

pytest.importorskip("accelerate")

TASKS = (
    "recover",
    "accumulate",
    "resume",
    "lengths",
    "shares",
    "halves",
    "loader",
    "files",
    "weights",
    "broken",
    "plans",
    "scores",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of every task, a folder each; one launch, for it takes seconds."""
    out = tmp_path_factory.mktemp("ranks")
    write_pictures(out / "pictures")
    launch(str(HERE / "ranked_run.py"), str(out), *TASKS, folder=out)
    return out


@pytest.mark.parametrize("task", ["recover", "accumulate"])
def test_two_processes_train_as_one(task: str, done: Path) -> None:
    """With batch norms, masks, distillation, clipping, averages and uneven last batches."""
    compare(done / task, *train(accumulate=3 if task == "accumulate" else 1))


def test_two_processes_read_a_loader_as_one(done: Path) -> None:
    """All rows of an epoch's first batch, to compare it; then each its own."""
    *made, reads = train_on_loader()
    compare(done / "loader", *made)
    assert reads == 3 * 34
    theirs = [int((done / "loader" / f"reads-{rank}.txt").read_text()) for rank in range(2)]
    # Of 11 rows five and six; for the first process the last batch has none, and it borrows one.
    assert theirs == [3 * (11 + 5 + 5 + 1), 3 * (11 + 6 + 6 + 1)]


def test_two_processes_read_files_as_one(done: Path) -> None:
    *made, reads = train_on_files(done / "pictures")
    compare(done / "files", *made)
    theirs = [int((done / "files" / f"reads-{rank}.txt").read_text()) for rank in range(2)]
    first = 3 * 9
    assert max(theirs) <= first + 0.6 * (reads - first)


def test_two_processes_go_on_from_a_checkpoint(done: Path) -> None:
    compare(done / "resume", *train())


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("lengths", "differ in batch 4: 12 examples in process 0, none in process 1; give every"),
        ("shares", "differ in batch 1: 12 examples"),
        ("halves", "differ in batch 1: 11 examples"),
        ("weights", "differ in weights: "),
        ("scores", "differ in the scores: "),
    ],
)
def test_what_differs_is_one_error_in_both(task: str, error: str, done: Path) -> None:
    said = [(done / task / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("InputError: the processes ")
    assert error in said[0]


def test_a_process_that_fails_ends_the_others(done: Path) -> None:
    assert (done / "broken" / "error-1.txt").read_text() == "OSError: the disk is gone"
    said = (done / "broken" / "error-0.txt").read_text()
    assert said == "RankError: process 1 of this run failed: the disk is gone"


def test_plans_are_the_same_or_an_error(done: Path) -> None:
    decided = [json.loads((done / "plans" / f"plans-{rank}.json").read_text()) for rank in range(2)]
    channels, zeros = net(), net()
    first = images()[0][0]
    alone = [
        sc.prune(channels, first, criterion="taylor", data=images(), budget={"macs": 0.5}),
        sc.prune(zeros, first, granularity="2:4"),
    ]
    assert decided == [[result.plan.to_json() for result in alone]] * 2
    for granularity in ("channel", "element"):
        for rank in range(2):
            said = (done / "plans" / f"error-{granularity}-{rank}.txt").read_text()
            assert said.startswith("the processes differ in the model: ")


def test_one_process_is_alone() -> None:
    assert found_ranks() is ALONE
    assert found_ranks(False) is ALONE
    with pytest.raises(InputError, match=r"must be an accelerate\.Accelerator, not str"):
        sc.recover(net(), images(), accelerator="ddp")


def test_a_launch_without_accelerate_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(SecateurError, match=r"secateur\[accelerate\]"):
        sc.recover(net(), images())


@pytest.mark.parametrize("kind", ["MEGATRON_LM", "DEEPSPEED"])
def test_models_in_pieces_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    kinds = accelerate.utils.DistributedType
    monkeypatch.setattr(type(accelerator), "distributed_type", kinds[kind])
    with pytest.raises(InputError, match=f"whole model.*{kind} spreads it"):
        sc.recover(net(), images(), accelerator=accelerator)


RECIPE = """\
name: two
model:
  source: secateur.models.resnet:SmallResNet
  kwargs: {widths: [8, 16], blocks: 1}
data: {source: "digits:8", batch_size: 100}
steps:
  - finetune: {epochs: 1, lr: 0.1}
  - prune: {budget: {macs: 0.6}, criterion: taylor, batches: 2, recalibrate: 2}
  - finetune: {epochs: 2, lr: 0.02, ema: 0.9, distill: {}}
report: false
"""


def epochs(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "epoch" in line]


@pytest.mark.slow
def test_two_processes_run_a_recipe_as_one(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    command = ["-m", "secateur", "run", str(recipe), "--out", str(tmp_path / "two")]
    shown = launch(*command, folder=tmp_path)
    assert shown.count("weights:") == 1, "the first process alone shows the result"
    run_recipe(recipe, out=tmp_path / "one")
    for name in ("plan.json",):
        plans = [tmp_path / run / "stages" / "02-prune" / name for run in ("one", "two")]
        removed = [json.loads(path.read_text())["removed"] for path in plans]
        assert removed[0] == removed[1]
    one, two = epochs(tmp_path / "one"), epochs(tmp_path / "two")
    assert len(one) == len(two) == 3
    for ours, theirs in zip(one, two, strict=True):
        for key in ("loss", "val_loss"):
            assert theirs[key] == pytest.approx(ours[key], abs=1e-4)
    kept = [load_file(tmp_path / run / "model.safetensors") for run in ("one", "two")]
    assert all(torch.allclose(kept[0][key], kept[1][key], atol=1e-3) for key in kept[0])
    # A second run is refused in both, and the launch ends.
    again = launch(*command, folder=tmp_path, fails=True)
    assert "holds a run already" in again
    # Taken away, the last step is made again.
    shutil.rmtree(tmp_path / "two" / "stages" / "03-finetune")
    (tmp_path / "two" / "model.safetensors").unlink()
    launch(*command, "--resume", folder=tmp_path)
    resumed = load_file(tmp_path / "two" / "model.safetensors")
    assert all(torch.equal(resumed[key], kept[1][key]) for key in kept[1])
