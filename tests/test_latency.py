"""Latency tables and budgets of latency, on clocks that are made up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import (
    FileFormatError,
    InputError,
)
from secateur.latency import Operation, fast_sizes
from secateur.latency.conditions import cache_path
from secateur.latency.grid import Grid, stops
from secateur.profiling import Timing
from timing import Clock, X, chain, staircase, table_of, tiles

# The grid ----------------------------------------------------------------------------------------


def test_between_measured_sizes_it_is_linear_along_every_axis() -> None:
    from scipy.interpolate import RegularGridInterpolator

    axes = ((1, 4, 9), (2, 3, 10, 11), (5, 8))
    values = np.random.default_rng(0).uniform(1, 2, [len(axis) for axis in axes])
    grid = Grid(axes, tuple(values.ravel()))
    reference = RegularGridInterpolator(axes, values)
    for sizes in [(1, 2, 5), (9, 11, 8), (4, 10, 8), (2, 7, 6), (8, 3, 7), (5, 4, 5)]:
        assert grid(sizes) == pytest.approx(reference(sizes).item())


@pytest.mark.parametrize("tile", [4, 8, 16, 32])
def test_a_staircase_in_two_dimensions_is_met_at_every_size(tile: int) -> None:
    axis = tuple(stops(64, 64 // tile))
    grid = Grid(
        (axis, axis), tuple(float(tiles(a, tile) * tiles(b, tile)) for a in axis for b in axis)
    )
    for a in range(1, 65):
        for b in range(1, 65):
            assert grid((a, b)) == pytest.approx(tiles(a, tile) * tiles(b, tile))


@pytest.mark.parametrize("tile", [1, 5, 8])
def test_fast_sizes_are_the_right_edges_in_any_noise_below_the_tolerance(tile: int) -> None:
    random = np.random.default_rng(tile)
    for _ in range(20):
        noisy = {n: tiles(n, tile) * random.uniform(0.995, 1.005) for n in range(1, 41)}
        edges = fast_sizes(noisy, tolerance=0.0105)
        assert edges == [n for n in range(40, 0, -1) if n % tile == 0]


# The table ---------------------------------------------------------------------------------------


def test_layers_of_the_same_sizes_are_measured_once() -> None:
    clock = Clock(staircase(8))
    table = sc.LatencyTable.measure(chain(16, 16, 16, 16), X, timer=clock)
    convolutions = [key for key in clock.asked if key.startswith("convolution")]
    # From 3 to 16 channels, and from 16 to 16.
    assert len(convolutions) == 2
    assert len(table.grids[convolutions[0]]) == 2
    assert table(Operation(*convolutions[0].split(" ", 1)), (1, 9, 16)) == 4.0


def test_a_cache_saves_every_measurement(tmp_path: Path) -> None:
    path = tmp_path / "tables" / "here.json"
    first = table_of(chain(16, 24), staircase(8), cache=path)
    clock = Clock(lambda kind, sizes: 1e9)
    again = sc.LatencyTable.measure(chain(16, 24), X, timer=clock, cache=path)
    assert clock.asked == [] and again == first
    # What is new is added, and nothing else measured.
    wider = sc.LatencyTable.measure(chain(16, 24, 40), X, timer=clock, cache=path)
    assert {key.split()[0] for key in clock.asked} == {
        "convolution",
        "elementwise",
        "pooling",
        "product",
    }
    assert sc.LatencyTable.load(path) == wider


def test_smaller_models_are_read_off_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    table_of(chain(32, 32), staircase(8), cache=path)
    clock = Clock(staircase(8))
    sc.LatencyTable.measure(chain(24, 20), X, timer=clock, cache=path)
    assert clock.asked == []


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    whole = Clock(staircase(8))
    expected = sc.LatencyTable.measure(chain(16, 24), X, timer=whole)

    class Interrupted(Clock):
        def __call__(self, *asked: Any) -> list[Timing]:
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().__call__(*asked)

    with pytest.raises(KeyboardInterrupt):
        sc.LatencyTable.measure(chain(16, 24), X, timer=Interrupted(staircase(8)), cache=path)
    rest = Clock(staircase(8))
    assert sc.LatencyTable.measure(chain(16, 24), X, timer=rest, cache=path) == expected
    assert len(rest.asked) == len(whole.asked) - 2


def test_progress_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    table_of(chain(16), staircase(8), tick=lambda *state: told.append(state))
    assert [done for done, _, _ in told] == list(range(len(told)))
    assert all(total == len(told) for _, total, _ in told)


def test_what_cannot_be_timed_is_listed_and_free() -> None:
    def law(kind: str, sizes: tuple[int, ...]) -> float:
        if kind == "product":
            raise RuntimeError("no such kernel\nat all")
        return 1.0

    table = table_of(chain(16), law)
    ((key, why),) = table.skipped.items()
    assert key.startswith("product") and why == "RuntimeError: no such kernel"
    assert table(Operation("product", '{"bias": true}'), (2, 16, 5)) == 0.0


def test_recurrent_layers_are_listed_and_free() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm = nn.Linear(5, 8), nn.LSTM(8, 6)
            self.head = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(self.embed(x))[0])

    net, x = Tagger().eval(), torch.randn(4, 2, 5)
    with torch.no_grad():
        table = sc.LatencyTable.measure(net, x, timer=Clock(staircase(4)))
    assert table.skipped == {"aten::mkldnn_rnn_layer": "it cannot be run by itself"}
    result = sc.prune(net, x, budget={"latency": 0.8}, latency=table, verify=False)
    assert result.costs["latency"][1] <= 0.8 * result.costs["latency"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"processor": "Abacus"}, ["processor 'Abacus'"]),
        ({"threads": 63, "dtype": "float16"}, ["threads 63", "dtype 'float16'"]),
        ({"versions": "torch 1.0"}, ["versions 'torch 1.0'"]),
    ],
)
def test_a_cache_from_elsewhere_is_refused(tmp_path: Path, change: Any, words: list[str]) -> None:
    path = tmp_path / "there.json"
    table = table_of(chain(16), staircase(8))
    there = dataclasses.replace(table.conditions, **change)
    dataclasses.replace(table, conditions=there).save(path)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        table_of(chain(16), staircase(8), cache=path)
    assert all(word in str(caught.value) for word in ["elsewhere", *words])
    assert path.read_bytes() == before
    assert cache_path(there) != cache_path(table.conditions)


def damaged(table: dict[str, Any]) -> list[str]:
    key = next(iter(table["operations"]))
    grid = table["operations"][key][0]
    return [
        "",
        "[1, 2]",
        json.dumps({**table, "format": "another"}),
        json.dumps({**table, "conditions": {**table["conditions"], "threads": "2"}}),
        json.dumps({**table, "operations": {key: [{**grid, "ms": grid["ms"][1:]}]}}),
        json.dumps({**table, "operations": {key: [{**grid, "ms": [-1.0] * len(grid["ms"])}]}}),
        json.dumps(table)[:-20],
    ]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    table_of(chain(16), staircase(8), cache=path)
    for text in damaged(json.loads(path.read_text())):
        path.write_text(text)
        with pytest.raises(FileFormatError, match=r"here\.json"):
            sc.LatencyTable.load(path)
    with pytest.raises(InputError, match="nowhere"):
        sc.LatencyTable.load(tmp_path / "nowhere.json")
