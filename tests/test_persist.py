"""Saved and loaded is bit for bit what was in memory."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from saving import Net, channels, fingerprint, outputs, pruned, randomise
from secateur import Plan, container, history, load, save
from secateur.errors import InputError


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "small.safetensors"


def test_round_trip_is_bit_equal_in_the_same_object(path):
    model = pruned()
    assert save(model, path) == path
    fresh = Net(seed=7)
    weight = fresh.conv.weight
    loaded = load(fresh, path)
    assert loaded is fresh and loaded.conv.weight is weight
    assert loaded.conv.out_channels == 5 and loaded.norm.num_features == 5
    assert loaded.training
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded.again.weight is loaded.hidden.weight
    assert history(loaded) == history(model) == [channels([1, 4, 5])]
    assert history(loaded)[0].settings == {"criterion": "by hand"}


def test_dense_model(path):
    model = Net(3)
    save(model, path)
    assert torch.equal(outputs(load(Net(4), path)), outputs(model))


def test_several_plans_replay_in_order(path):
    model = pruned()
    second = channels([0, 2], size=5)
    second.apply(model)
    save(model, path)
    loaded = load(Net(7), path)
    assert loaded.conv.out_channels == 3
    assert history(loaded) == [channels([1, 4, 5]), second]
    assert torch.equal(outputs(loaded), outputs(model))
    again = path.with_name("again.safetensors")
    save(loaded, again)
    assert torch.equal(outputs(load(Net(8), again)), outputs(model))


def test_training_goes_on_where_it_was_saved(path):
    model = pruned()
    save(model, path)
    saved = outputs(model)
    with torch.no_grad():
        model.conv.weight.zero_()
    assert torch.equal(outputs(load(model, path)), saved)
    channels([0], size=5).apply(model)
    save(model, path)
    one_step_behind = load(pruned(5), path)
    assert torch.equal(outputs(one_step_behind), outputs(model))


def test_a_copy_of_the_model_saves_as_well(path):
    model = copy.deepcopy(pruned())
    save(model, path)
    assert torch.equal(outputs(load(Net(7), path)), outputs(model))


def test_what_prune_did_comes_back(path):
    def build(seed):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.Flatten(),
            nn.Linear(8 * 4, 5),
        )

    model, x = build(0), torch.randn(2, 3, 6, 6)
    randomise(model)
    first = sc.prune(model, x, budget={"macs": 0.7})
    second = sc.prune(model, x, budget={"macs": 0.7}, allocation="uniform")
    sc.save(model, path)
    loaded = sc.load(build(1), path)
    assert torch.equal(outputs(loaded, x), outputs(model, x))
    assert sc.history(loaded) == [first.plan, second.plan]
    assert sc.profile(loaded, x).macs == second.after.macs


def test_bit_equal_in_a_fresh_process(path, tmp_path):
    model = pruned()
    save(model, path)
    save_file({"expected": outputs(model)}, tmp_path / "expected.safetensors")
    code = (
        "import sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "torch.set_num_threads(1)\n"
        "from saving import Net, outputs\n"
        "from secateur import load\n"
        "from safetensors.torch import load_file\n"
        f"model = load(Net(99), {str(path)!r})\n"
        f"expected = load_file({str(tmp_path / 'expected.safetensors')!r})['expected']\n"
        "assert torch.equal(outputs(model), expected)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_pickles(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    for module in (pickle, torch.serialization):
        for name in ("load", "loads", "dump", "dumps", "save", "Unpickler", "Pickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)
    model = pruned()
    save(model, path)
    load(Net(7), path)


def test_other_tools_can_read_the_file(path):
    model = pruned()
    save(model, path)
    with safe_open(path, framework="pt") as file:
        assert "hidden.weight" in file.keys() and "again.weight" not in file.keys()  # noqa: SIM118
        assert torch.equal(file.get_tensor("conv.weight"), model.conv.weight)
        header = json.loads(file.metadata()["secateur"])
    assert header["version"] == 1
    assert Plan.from_json(header["plans"][0]) == channels([1, 4, 5])


def test_buffers_that_are_not_stored_are_cut_by_the_plan(path):
    model = pruned()
    save(model, path)
    loaded = load(Net(7), path)
    kept = [0, 2, 3, 6, 7]
    assert torch.equal(loaded.scale, torch.linspace(1, 2, 8)[kept])
    with safe_open(path, framework="pt") as file:
        assert "scale" not in file.keys()  # noqa: SIM118


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_comes_from_the_file(path, dtype):
    model = pruned().to(dtype)
    save(model, path)
    loaded = load(Net(7), path)
    assert loaded.conv.weight.dtype == loaded.scale.dtype == dtype
    assert loaded.norm.num_batches_tracked.dtype == torch.int64
    assert torch.equal(outputs(loaded), outputs(model))
    loaded.train()(torch.randn(2, 3, 6, 6, dtype=dtype)).sum().backward()
    assert loaded.conv.weight.grad.dtype == dtype


def test_mixed_dtypes(path):
    model = Net()
    model.norm.double()
    save(model, path)
    loaded = load(Net(7), path)
    assert loaded.norm.weight.dtype == torch.float64
    assert loaded.conv.weight.dtype == torch.float32


def test_requires_grad_comes_from_the_file(path):
    model = pruned()
    model.conv.weight.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    save(model, path)
    fresh = Net(7)
    fresh.conv.bias.requires_grad_(False)
    loaded = load(fresh, path)
    frozen = {name for name, p in loaded.named_parameters() if not p.requires_grad}
    assert frozen == {"conv.weight", "norm.bias"}


def test_gradients_and_optimizers_work_afterwards(path):
    model = pruned()
    save(model, path)
    fresh = Net(7)
    x = torch.randn(2, 3, 6, 6)
    loss = fresh(x).sum()
    loss.backward()
    loaded = load(fresh, path)
    assert all(p.grad is None for p in loaded.parameters())
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1)
    loaded(x).sum().backward()
    optimizer.step()
    assert loaded.conv.weight.grad.shape == (5, 3, 3, 3)


def test_a_failed_save_leaves_what_was_there(path, monkeypatch):
    model = pruned()
    save(model, path)
    content = path.read_bytes()

    def fail(tensors, draft, metadata):
        Path(draft).write_bytes(b"half of a fi")
        raise OSError("No space left on device")

    monkeypatch.setattr(container, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save(Net(), path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_saving_replaces_a_file_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "model.safetensors"
    save(Net(1), path)
    save(pruned(), str(path))
    assert load(Net(), str(path)).conv.out_channels == 5
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(InputError, match="is a folder"):
        save(Net(), tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_file_has_the_usual_permissions(path, tmp_path):
    save(Net(), path)
    (tmp_path / "other").write_text("")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_saving_leaves_the_model_alone(path):
    model = pruned()
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    before = fingerprint(model)
    save(model, path)
    assert fingerprint(model) == before
