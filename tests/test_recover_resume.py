"""Checkpoints of `recover`: whole at any moment, and resumed to the same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

import secateur as sc
from recovering import images, losses, net, same, state
from resumed_run import Noisy, train
from secateur.data import Batches
from secateur.errors import FileFormatError, InputError
from secateur.recover import checkpoint as checkpoints
from secateur.recover.generators import Generators

HERE = Path(__file__).resolve().parent


def run(folder: Path, out: Path, kill_at: int = 0) -> int:
    command = [sys.executable, str(HERE / "resumed_run.py"), str(folder), str(out), str(kill_at)]
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{HERE}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def test_a_run_that_is_killed_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Killed in epoch 1, in the middle of epoch 2, and in the last step; 3 updates an epoch."""
    # The generator is seeded by chance, and the checkpoint of epoch 0 remembers it.
    folder, whole = tmp_path / "checkpoints", tmp_path / "whole"
    assert run(folder, tmp_path / "killed.safetensors", kill_at=2) == -9
    assert not (tmp_path / "killed.safetensors").exists()
    shutil.copytree(folder, whole)
    assert run(folder, tmp_path / "killed.safetensors", kill_at=5) == -9
    assert run(folder, tmp_path / "killed.safetensors", kill_at=12) == -9
    assert run(folder, tmp_path / "resumed.safetensors") == 0
    assert run(whole, tmp_path / "whole.safetensors") == 0
    resumed, expected = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("resumed", "whole")
    )
    assert same(resumed, expected)
    told = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("resumed", "whole")]
    assert told[0] == told[1] and len(told[0][0]) == 4
    # A complete run gives its result at once.
    assert run(folder, tmp_path / "again.safetensors", kill_at=12) == 0
    assert same(load_file(tmp_path / "again.safetensors"), expected)
    assert [path.name for path in folder.iterdir()] == ["checkpoint.safetensors"]


class Stop(Exception):
    """What interrupts a run."""


def stopping(at: int):
    def progress(done: int, total: int, text: str) -> None:
        if done == at:
            raise Stop

    return progress


def shuffled() -> Batches:
    x, y = (torch.cat(parts) for parts in zip(*images(), strict=True))
    return Batches(x, y, batch_size=12, shuffle=True, seed=5)


def test_a_checkpoint_changes_nothing_and_resumes_in_the_same_process(tmp_path: Path) -> None:
    options = {"epochs": 3, "lr": 0.05, "optimizer": "adamw", "validation": images(seed=1)}
    plain = net()
    expected = sc.recover(plain, shuffled(), **options)
    for at in (None, 1, 4, 6, 12):
        folder, model, batches = tmp_path / str(at), net(), shuffled()
        if at is not None:
            with pytest.raises(Stop):
                sc.recover(model, batches, **options, checkpoint=folder, progress=stopping(at))
        # The same objects, half-way moved by the interrupted call.
        history = sc.recover(model, batches, **options, checkpoint=folder)
        assert losses(history) == losses(expected)
        assert same(state(model), state(plain))


def test_workers_and_early_stopping_resume(tmp_path: Path) -> None:
    def loader() -> DataLoader:
        return DataLoader(Noisy(), batch_size=16, shuffle=True, num_workers=1)

    options = {"epochs": 9, "lr": 0.2, "validation": images(seed=1), "patience": 1}
    results = []
    for stop in (None, 5):
        model, batches = net(), loader()
        # The data set's own generator starts by chance.
        batches.dataset.own = np.random.default_rng(0)
        folder = {"checkpoint": tmp_path / str(stop)}
        if stop:
            with pytest.raises(Stop):
                sc.recover(model, batches, **options, **folder, progress=stopping(stop))
        history = sc.recover(model, batches, **options, **folder)
        again = sc.recover(net(), batches, **options, **folder)
        assert losses(again) == losses(history) and again.best == history.best
        results.append((losses(history), history.best, state(model)))
    assert len(results[0][0]) < 9
    assert results[0][:2] == results[1][:2] and same(results[0][2], results[1][2])


def test_an_optimizer_of_ones_own_resumes(tmp_path: Path) -> None:
    results = []
    for stop in (None, 6):
        model = net()
        engine = torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.5)
        options = {"epochs": 3, "optimizer": engine, "checkpoint": tmp_path / str(stop)}
        if stop:
            with pytest.raises(Stop):
                sc.recover(model, images(), **options, progress=stopping(stop))
        sc.recover(model, images(), **options)
        assert engine.param_groups[0]["lr"] == 1e-3
        results.append((state(model), engine.state_dict()["state"]))
    assert same(results[0][0], results[1][0])
    for key, values in results[0][1].items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(results[1][1][key][name]))


def test_the_file_holds_no_pickle_and_is_replaced_whole(tmp_path: Path, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("pickled")

    for name in ("save", "load"):
        monkeypatch.setattr(torch, name, refuse)
    (tmp_path / ".secateur-old").mkdir()
    (tmp_path / ".secateur-old" / "checkpoint.safetensors").write_bytes(b"half")
    seen = []
    sc.recover(
        net(), images(), epochs=2, checkpoint=tmp_path,
        progress=lambda done, *_: seen.append(load_file(tmp_path / "checkpoint.safetensors")),
    )  # fmt: skip
    assert len(seen) == 8
    assert all(
        torch.equal(a["run/model/0.weight"], seen[0]["run/model/0.weight"]) for a in seen[:4]
    )
    assert not torch.equal(seen[4]["run/model/0.weight"], seen[0]["run/model/0.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def other_model() -> nn.Module:
    model = net()
    model[7].bias.requires_grad_(False)
    return model


def pruned(seed: int) -> nn.Module:
    model = net()
    sc.prune(model, images()[0][0], criterion="random", budget={"macs": 0.6}, seed=seed)
    return model


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"lr": 0.01}, {"lr": 0.02}, r"of another lr \(0.01, not 0.02\)"),
        ({"epochs": 1}, {"epochs": 2}, "of another epochs"),
        ({}, {"ema": 0.9}, "of another ema"),
        ({}, {"optimizer": "adamw"}, "of another optimizer"),
        ({}, {"model": other_model()}, "of another model"),
        ({"model": pruned(0)}, {"model": pruned(1)}, "of another model"),
        ({}, {"teacher": net(1)}, "of another teacher"),
        ({"teacher": net(1)}, {"teacher": net(2)}, "of another teacher"),
        ({}, {"validation": images()}, "number of validation batches"),
        ({}, {"train_batches": images(36)}, "number of training batches"),
        ({}, {"loss": nn.functional.cross_entropy}, "of another loss"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, first, second, message) -> None:
    base = {"model": net(), "train_batches": images(), "epochs": 1, "checkpoint": tmp_path}
    sc.recover(**{**base, **first})
    model = second.get("model", net())
    before = state(model)
    with pytest.raises(InputError, match=message) as caught:
        sc.recover(**{**base, **first, **second, "model": model})
    assert "\n" not in str(caught.value)
    assert same(state(model), before)


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    sc.recover(net(), images(), epochs=1, checkpoint=tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    content = file.read_bytes()
    for damage in (content[:-10], content[:-1] + bytes([content[-1] ^ 1]), b"nothing"):
        file.write_bytes(damage)
        model = net()
        before = state(model)
        with pytest.raises(FileFormatError, match=r"truncated|changed"):
            sc.recover(model, images(), epochs=1, checkpoint=tmp_path)
        assert same(state(model), before)
    sc.save(net(), file)
    with pytest.raises(FileFormatError, match=r"secateur\.recover did not write it"):
        sc.recover(net(), images(), epochs=1, checkpoint=tmp_path)


def test_a_full_disk_is_one_clear_error_and_keeps_the_last_checkpoint(
    tmp_path, monkeypatch
) -> None:
    expected = net()
    sc.recover(expected, shuffled(), epochs=2)
    written = []
    seal = checkpoints.seal

    def full(*args):
        written.append(args)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        seal(*args)

    monkeypatch.setattr(checkpoints, "seal", full)
    model, batches = net(), shuffled()
    with pytest.raises(InputError, match="make room"):
        sc.recover(model, batches, epochs=2, checkpoint=tmp_path)
    history = sc.recover(model, batches, epochs=2, checkpoint=tmp_path)
    assert len(history) == 2
    assert same(state(model), state(expected))


def test_a_checkpoint_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be a folder"):
        sc.recover(net(), images(), epochs=1, checkpoint=tmp_path / "file")


def test_methods_that_follow_the_optimizer_are_refused_with_a_checkpoint(tmp_path: Path) -> None:
    model = net()
    engine = torch.optim.SGD(model.parameters(), lr=0.01)
    sc.follow(engine, sc.regularizer("l2", model))
    with pytest.raises(InputError, match="followed by hooks"):
        sc.recover(model, images(), epochs=1, optimizer=engine, checkpoint=tmp_path)
    sc.recover(model, images(), epochs=1, optimizer=engine)


def test_samplers_are_told_the_epoch() -> None:
    class Told:
        def __init__(self) -> None:
            self.epochs: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

        def __iter__(self):
            return iter(images())

    batches = Told()
    sc.recover(net(), batches, epochs=3)
    assert batches.epochs == [0, 1, 2]


def test_generators_of_every_kind_are_found_and_restored() -> None:
    loader = SimpleNamespace(
        batch_sampler=SimpleNamespace(sampler=SimpleNamespace(generator=torch.Generator())),
        dataset=SimpleNamespace(
            transform=SimpleNamespace(
                transforms=[SimpleNamespace(rng=random.Random(1)), {"x": np.random.default_rng(1)}]
            )
        ),
        old=np.random.RandomState(3),
    )

    def draw() -> list[float]:
        transforms = loader.dataset.transform.transforms
        return [
            float(torch.rand(1, generator=loader.batch_sampler.sampler.generator)),
            transforms[0].rng.random(),
            transforms[1]["x"].random(),
            loader.old.random(),
            random.random(),
            np.random.random(),  # noqa: NPY002
            float(torch.rand(1)),
        ]

    generators = Generators([loader, None], torch.device("cpu"))
    before = generators.state()
    first = draw()
    generators.load(before)
    assert draw() == first
    assert draw() != first


def test_the_interrupted_run_is_one_worth_interrupting() -> None:
    """Guards the test above: nothing in it is switched off by accident."""
    model, history = train(None)
    assert len(history) == 4 and history.best is not None
    assert sc.masks_of(model)
