"""Whole layers: which blocks there are, which go, and that nothing else changes."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.depth import as_depth
from secateur.depth.base import Passing
from secateur.graph.blocks import blocks
from secateur.graph.trace import record
from secateur.inputs import as_inputs
from secateur.observing.reading import Reading


class Mlp(nn.Module):
    def __init__(self, width: int, place: int) -> None:
        super().__init__()
        self.place = place
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Stack(nn.Module):
    """Four blocks in a list, each of which knows its place."""

    def __init__(self, width: int = 6, depth: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inward = nn.Linear(3, width)
        self.layers = nn.ModuleList(Mlp(width, at) for at in range(depth))
        self.outward = nn.Linear(width, 2)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.inward(x)
        for layer in self.layers:
            x = layer(x)
        return self.outward(x)


class Named(nn.Module):
    """Blocks that the code calls by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inward = nn.Linear(3, 6)
        self.first, self.second = Mlp(6, 0), Mlp(6, 1)
        self.block1, self.block2 = Mlp(6, 2), Mlp(6, 3)
        self.outward = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.outward(self.block2(self.block1(self.inward(x))))


def passing(model: nn.Module, data: list[Tensor]) -> Passing:
    inputs = as_inputs(data[0])
    recorded = record(model, inputs)
    found = blocks(model, recorded)
    reading = Reading(model, [(x, None) for x in data], inputs)
    return Passing(model, sc.Graph(model, recorded), found, reading)


def streams(model: Stack, data: list[Tensor]) -> list[np.ndarray]:
    """What goes into every block and out of the last, ``[sequences, tokens, features]``."""
    listed = []
    with torch.no_grad():
        x = model.inward(torch.cat(data))
        listed.append(x.numpy())
        for layer in model.layers:
            x = layer(x)
            listed.append(x.numpy())
    return listed


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


DATA = [torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]


def test_block_influence_is_that_of_the_paper() -> None:
    model = Stack().eval()
    values = streams(model, DATA)
    expected = [1 - cosine(a, b).mean() for a, b in itertools.pairwise(values)]
    found = as_depth("block_influence").scores(passing(model, DATA))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_angular_distance_is_taken_at_the_last_token_over_runs() -> None:
    model = Stack().eval()
    values = [each[:, -1] for each in streams(model, DATA)]
    found = as_depth("angular").run_scores(passing(model, DATA))
    for (first, count), score in found.items():
        angles = np.arccos(np.clip(cosine(values[first], values[first + count]), -1, 1)) / np.pi
        assert score == pytest.approx(angles.mean(), rel=1e-4)
    assert len(found) == 10


def test_the_last_token_is_the_last_that_the_mask_lets_through() -> None:
    model = Stack().eval()
    x = DATA[0]
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[:, 3:] = 0
    shorter = passing(model, [x[:, :3]])
    masked = passing(model, [x])
    reading = Reading(model, [{"x": x, "attention_mask": mask}], masked.reading.inputs)
    seen = Passing(model, masked.graph, masked.blocks, reading)
    expected = as_depth("angular").run_scores(shorter)
    assert as_depth("angular").run_scores(seen) == pytest.approx(expected)


@pytest.mark.parametrize("criterion", ["block_influence", "angular"])
def test_a_block_that_changes_nothing_scores_zero_and_goes_first(criterion: str) -> None:
    model = Stack().eval()
    with torch.no_grad():
        model.layers[2].down.weight.zero_()
        model.layers[2].down.bias.zero_()
    scores = as_depth(criterion).scores(passing(model, DATA))
    assert abs(scores[2]) < 1e-3 and scores.argmin() == 2
    dense = copy.deepcopy(model)
    data = [(x, x) for x in DATA]
    result = sc.prune(
        model, DATA[0], granularity="layer", criterion=criterion, budget={"params": 0.85}, data=data
    )
    assert result.plan.dropped == ["layers.2"]
    torch.testing.assert_close(model(DATA[0]), dense(DATA[0]))


def test_layers_that_stay_learn_their_new_place() -> None:
    model = Stack()
    result = sc.prune(model, DATA[0], granularity="layer", budget={"params": 0.6})
    assert len(model.layers) == 2
    assert [layer.place for layer in model.layers] == [0, 1]
    assert result.groups[0].before == 4 and result.groups[0].after == 2


def test_angular_takes_one_run_of_neighbours() -> None:
    model = Stack()
    data = [(x, x) for x in DATA]
    result = sc.prune(
        model, DATA[0], granularity="layer", criterion="angular", budget={"params": 0.6}, data=data
    )
    places = [int(path.rpartition(".")[2]) for path in result.plan.dropped]
    assert places == list(range(places[0], places[0] + len(places)))


def test_deepest_spares_the_last() -> None:
    model = Stack()
    result = sc.prune(
        model, DATA[0], granularity="layer", criterion="deepest", budget={"params": 0.85}
    )
    assert result.plan.dropped == ["layers.2"]


def test_a_block_that_the_code_calls_by_name_becomes_an_identity(tmp_path: Path) -> None:
    model = Named()
    result = sc.prune(
        model, DATA[0], granularity="layer", budget={"macs": 0.7}, criterion="magnitude"
    )
    assert len(result.plan.dropped) == 1
    assert result.plan.dropped[0] in ("block1", "block2")
    loaded = sc.load(Named(), sc.save(model, tmp_path / "named.safetensors"))
    assert torch.equal(loaded(DATA[0]), model(DATA[0]))


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "swin_t"])
def test_convolutional_networks_have_blocks_as_well(name: str, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision", exc_type=ImportError)
    build = getattr(torchvision.models, name)
    torch.manual_seed(0)
    model = build(weights=None, num_classes=4).eval()
    x = torch.randn(1, 3, 64, 64)
    result = sc.prune(model, x, granularity="layer", budget={"macs": 0.9})
    assert result.error is not None and result.error < 1e-4
    assert result.after.macs <= 0.9 * result.before.macs
    loaded = sc.load(
        build(weights=None, num_classes=4), sc.save(model, tmp_path / "small.safetensors")
    )
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), model(x))


def test_a_plan_of_layers_is_text_and_back() -> None:
    model = Stack()
    result = sc.prune(model, DATA[0], granularity="layer", budget={"params": 0.6})
    again = Stack()
    plan = sc.Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    plan.apply(again)
    assert torch.equal(again(DATA[0]), model(DATA[0]))
    with pytest.raises(sc.errors.PlanError):
        plan.apply(nn.Linear(3, 2))


def test_ignored_layers_stay() -> None:
    model = Stack()
    result = sc.prune(
        model, DATA[0], granularity="layer", budget={"params": 0.85}, ignore=["layers.0*"]
    )
    assert result.plan.dropped != ["layers.0"]


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(sc.errors.NothingToPruneError, match="no layer to leave out"):
        sc.prune(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), torch.ones(1, 3),
                 granularity="layer")  # fmt: skip
