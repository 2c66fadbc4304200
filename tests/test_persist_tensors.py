"""Ties, parametrised weights, layouts, views and odd tensors in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from saving import Net, outputs, pruned
from secateur import Plan, history, load, save
from secateur.plan import Rescale


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "small.safetensors"


def test_ties_are_made_again(path):
    model = pruned()
    save(model, path)
    untied = Net(7)
    untied.again.weight = nn.Parameter(untied.hidden.weight.detach().clone())
    loaded = load(untied, path)
    assert loaded.again.weight is loaded.hidden.weight
    assert torch.equal(outputs(loaded), outputs(model))


class Blocks(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.first = block
        self.second = block
        self.register_buffer("table", torch.arange(4))
        self.head = nn.Linear(4, 4)
        self.head.register_buffer("table", self.table)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


def test_shared_modules_and_shared_buffers(path):
    model = Blocks(nn.Linear(4, 4))
    save(model, path)
    with safe_open(path, framework="pt") as file:
        names = {"first.weight", "first.bias", "table", "head.weight", "head.bias"}
        assert set(file.keys()) == names
    loaded = load(Blocks(nn.Linear(4, 4)), path)
    assert loaded.head.table is loaded.table
    x = torch.randn(2, 4)
    assert torch.equal(outputs(loaded, x), outputs(model, x))


@pytest.mark.parametrize(
    "normalise",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
)
def test_parametrised_weights(path, normalise):
    def build():
        return nn.Sequential(normalise(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))

    model, x = build(), torch.randn(5, 4)
    model(x)
    save(model, path)
    assert torch.equal(outputs(load(build(), path), x), outputs(model, x))


def test_pruned_weight_norm(path):
    def build():
        return nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)
        )

    original = "0.parametrizations.weight.original"
    plan = Plan(
        removed={
            f"{original}0": {0: [2]},
            f"{original}1": {0: [2]},
            "0.bias": {0: [2]},
            "2.weight": {1: [2]},
        },
        shapes={
            f"{original}0": [6, 1],
            f"{original}1": [6, 4],
            "0.bias": [6],
            "2.weight": [3, 6],
        },
    )
    model, x = build(), torch.randn(5, 4)
    plan.apply(model)
    save(model, path)
    loaded = load(build(), path)
    assert loaded[0].weight.shape == (5, 4)
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_memory_layout_comes_along(path):
    model = pruned().to(memory_format=torch.channels_last)
    model.hidden.weight.data = model.hidden.weight.data.t().contiguous().t()
    save(model, path)
    loaded = load(Net(7), path)
    assert loaded.conv.weight.stride() == model.conv.weight.stride()
    assert loaded.hidden.weight.stride() == model.hidden.weight.stride()
    assert torch.equal(outputs(loaded), outputs(model))


def test_a_saved_view_does_not_bring_its_base(path):
    model = nn.Linear(4, 4, bias=False)
    base = torch.randn(1000, 4)
    model.weight.data = base[:4]
    save(model, path)
    assert path.stat().st_size < 1500
    assert torch.equal(load(nn.Linear(4, 4, bias=False), path).weight, base[:4])


def test_recurrent_layers(path):
    model, x = nn.LSTM(4, 6, num_layers=2, bidirectional=True), torch.randn(5, 2, 4)
    save(model, path)
    loaded = load(nn.LSTM(4, 6, num_layers=2, bidirectional=True), path)
    assert torch.equal(loaded(x)[0], model(x)[0])


class Odd(nn.Module):
    """Values that few models hold."""

    def __init__(self):
        super().__init__()
        self.phases = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("scalar", torch.tensor(3))
        self.register_buffer("nothing", torch.zeros(0, 4))
        self.register_buffer("absent", None)
        self.register_buffer("small", torch.randn(4).to(torch.float8_e4m3fn))
        self.register_buffer("spread", torch.randn(3).expand(2, 3))
        self.values = nn.ParameterList([torch.tensor([float("nan"), float("inf"), -0.0])])


def test_odd_tensors(path):
    model = Odd()
    save(model, path)
    loaded = load(Odd(), path)
    for name, tensor in model.state_dict().items():
        mine = loaded.state_dict()[name]
        assert mine.dtype == tensor.dtype and mine.shape == tensor.shape
        a, b = (t.contiguous().reshape(-1).view(torch.uint8) for t in (mine, tensor))
        assert torch.equal(a, b), name


def test_masks_rescaling_and_renumbering_do_not_happen_twice(path):
    model = pruned()
    kept = torch.ones(6, 5, dtype=torch.bool)
    kept[0] = False
    Plan(
        masks={"hidden.weight": kept},
        rescaled=[Rescale("conv.weight", 0, [0], 2.0)],
        shapes={"hidden.weight": [6, 5], "conv.weight": [5, 3, 3, 3]},
    ).apply(model)
    save(model, path)
    loaded = load(Net(7), path)
    assert torch.equal(outputs(loaded), outputs(model))
    assert torch.equal(history(loaded)[1].masks["hidden.weight"], kept)
