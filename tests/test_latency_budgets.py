"""Budgets of latency and the sizes found by it, on clocks that are made up."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import (
    BudgetError,
    InputError,
    MissingExtraError,
    UnknownNameError,
)
from secateur.latency import RUNTIMES, Operation
from secateur.profiling import Timing
from timing import Clock, Law, X, chain, staircase, table_of, tiles


def widths_of(net: nn.Module) -> tuple[int, ...]:
    return tuple(layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d))


# Budgets -----------------------------------------------------------------------------------------


def by_hand(law: Law, net: nn.Module) -> float:
    inside, total = 3, 0.0
    for width in widths_of(net):
        total += law("convolution", (1, inside, width))
        inside = width
    return total


@pytest.mark.parametrize("fraction", [0.3, 0.55, 0.8])
@pytest.mark.parametrize("tile", [1, 4, 8])
def test_what_is_left_keeps_to_the_budget(tile: int, fraction: float) -> None:
    net, law = chain(32, 32, 32), staircase(tile)
    dense = by_hand(law, net)
    # Measured at every size, so that nothing is interpolated.
    table = table_of(net, law, points=16 if tile == 4 else 8 if tile == 8 else 32)
    if tile == 1:
        law = staircase_between(table)
        dense = by_hand(law, net)
    result = sc.prune(net, X, budget={"latency": fraction}, latency=table)
    assert result.costs["latency"] == pytest.approx((dense, by_hand(law, net)))
    assert by_hand(law, net) <= fraction * dense + 1e-9
    check = result.latency
    assert check is not None and check.predicted == pytest.approx(by_hand(law, net) / dense)
    assert check.measured is not None and check.dense is not None and check.pruned is not None
    assert check.measured == check.pruned.ratio(check.dense) > 0


def staircase_between(table: sc.LatencyTable) -> Law:
    key = next(key for key in table.grids if key.startswith("convolution"))
    operation = Operation(*key.split(" ", 1))
    dense = {3: table.grid(operation, (1, 3, 32)), 32: table.grid(operation, (1, 32, 32))}

    def law(kind: str, sizes: tuple[int, ...]) -> float:
        grid = dense[3 if sizes[1] == 3 else 32]
        assert grid is not None
        return grid(sizes)

    return law


def test_one_channel_more_would_pass_the_budget() -> None:
    net = chain(40)
    table = table_of(net, lambda kind, sizes: sizes[-1] if kind == "convolution" else 0.0)
    sc.prune(net, X, budget={"latency": 0.33}, latency=table)
    assert widths_of(net) == (13,)  # 0.33 * 40 = 13.2


def test_steps_count_from_the_first_model() -> None:
    net, law = chain(32, 32), staircase(4)
    dense = by_hand(law, net)
    table = table_of(net, law)
    results = list(sc.Pruner(net, X, steps=3, budget={"latency": 0.4}, latency=table))
    assert by_hand(law, net) <= 0.4 * dense
    assert [result.costs["latency"][1] <= dense * 0.4 ** (step / 3) for step, result in
            enumerate(results, 1)] == [True] * 3  # fmt: skip


def test_latency_names_the_knapsack_of_saliency_and_latency() -> None:
    found = []
    for allocation in ("latency", "knapsack", "uniform"):
        net = chain(24, 24, 24)
        result = sc.prune(
            net, X, allocation=allocation, budget={"latency": 0.5},
            latency=table_of(net, staircase(4)),
        )  # fmt: skip
        dense, left = result.costs["latency"]
        assert left <= 0.5 * dense
        found.append(result.plan.to_json())
    assert found[0] == found[1] != found[2]


def test_a_budget_that_cannot_be_met_leaves_the_model_alone() -> None:
    net = chain(16)
    before = copy.deepcopy(net.state_dict())
    table = table_of(net, lambda kind, sizes: 1.0)
    with pytest.raises(BudgetError, match=r"latency=0\.5 cannot be met.*latency=1\.000"):
        sc.prune(net, X, budget={"latency": 0.5}, latency=table)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_table_from_a_device_prunes_for_it_and_is_not_checked_here() -> None:
    net, law = chain(32, 32), staircase(8)
    table = table_of(net, law)
    there = dataclasses.replace(table.conditions, processor="Abacus")
    table = dataclasses.replace(table, conditions=there)
    result = sc.prune(net, X, budget={"latency": 0.5}, latency=table)
    assert result.latency is not None and result.latency.measured is None
    assert result.latency.predicted <= 0.5


# Sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [4, 8, 16])
@pytest.mark.parametrize("points", [4, 8, 16])
@pytest.mark.parametrize("jitter", [0.0, 0.002])
def test_automatic_sizes_are_the_right_edges(tile: int, points: int, jitter: float) -> None:
    net = chain(64, 48, 64)
    clock = Clock(staircase(tile), jitter)
    table = sc.LatencyTable.measure(net, X, timer=clock, points=points)
    sc.prune(net, X, budget={"macs": 0.4}, round_to="auto", latency=table)
    assert widths_of(net) != (64, 48, 64)
    assert all(width % tile == 0 for width in widths_of(net)), widths_of(net)


def test_sizes_that_are_slower_than_larger_ones_are_avoided() -> None:
    def law(kind: str, sizes: tuple[int, ...]) -> float:
        return sizes[-1] * (1.0 if sizes[-1] % 8 == 0 else 3.0) if kind == "convolution" else 0.0

    net = chain(64)
    sc.prune(net, X, budget={"macs": 0.45}, round_to="auto", latency=table_of(net, law, points=64))
    assert widths_of(net) == (24,)


def test_layers_that_shrink_together_are_timed_together() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Conv2d(3, 48, 1)
            self.right = nn.Conv2d(3, 48, 3, padding=1)
            self.last = nn.Conv2d(48, 2, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.left(x) + self.right(x))

    tile = {"[1, 1]": 12, "[3, 3]": 16}

    class Both(Clock):
        def __call__(self, operation: Operation, points: Any) -> list[Timing]:
            if operation.kind != "convolution" or operation.fixed["kernel"] == [5, 5]:
                return [Timing("", (0.0,)) for _ in points]
            size = tile[str(operation.fixed["kernel"])]
            return [Timing("", (float(tiles(out, size)),)) for *_, out in points]

    net = Sum()
    table = sc.LatencyTable.measure(net, X, timer=Both(staircase(1)), points=64)
    seen = set()
    for fraction in np.linspace(0.26, 0.95, 12):
        net = Sum()
        sc.prune(net, X, budget={"macs": float(fraction)}, round_to="auto", latency=table)
        seen.add(net.left.out_channels)
    # Right edges of steps of 12 or of 16, whichever comes first.
    assert seen == {12, 16, 24, 32, 36}


def test_rules_and_automatic_sizes_go_together() -> None:
    net = chain(64, 60)
    table = table_of(net, staircase(16))
    rule = {"0": "auto", "*": 5}
    sc.prune(net, X, budget={"macs": 0.4}, round_to=rule, latency=table)
    first, second = widths_of(net)
    assert first % 16 == 0 and second % 5 == 0 and first * second < 64 * 60


# Without a table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [{"budget": {"latency": 0.7}}, {"round_to": "auto"}])
def test_by_default_it_is_measured_here_and_kept(
    option: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("secateur.latency.table.Stopwatch", lambda *_: Clock(staircase(4)))
    net = chain(16)
    sc.prune(net, X, **option)
    (kept,) = (tmp_path / "secateur").iterdir()
    assert sc.LatencyTable.load(kept).conditions.runtime == "torch"
    assert widths_of(net)[0] < 16


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_a_real_clock(runtime: str) -> None:
    net, x = chain(64, 64), torch.randn(2, 3, 24, 24)
    try:
        table = sc.LatencyTable.measure(net, x, runtime, threads=1, points=1, runs=3)
    except InputError as error:
        assert runtime == "torch.compile" and "does not work here" in str(error)
        pytest.skip(str(error))
    kinds = {key.split(" {")[0] for key in table.grids}
    eager = {"convolution", "product", "elementwise", "pooling"}
    assert kinds == (eager if runtime == "torch" else {"convolution", "product"})
    assert not table.skipped
    assert all(ms > 0 for grids in table.grids.values() for grid in grids for ms in grid.ms)
    result = sc.prune(net, x, budget={"latency": 0.9}, latency=table)
    assert result.latency is not None and result.latency.runtime == runtime
    assert result.latency.measured is not None and result.latency.measured > 0


# Bad input ---------------------------------------------------------------------------------------


def refused(
    kind: type[Exception], *words: str, net: nn.Module | None = None, **options: Any
) -> None:
    net = chain(8) if net is None else net
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(kind) as caught:
        sc.prune(net, X, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


BUDGET = {"latency": 0.5}


def test_an_unknown_runtime_suggests_the_nearest() -> None:
    refused(UnknownNameError, "did you mean 'onnxruntime'", budget=BUDGET, latency="onnx-runtime")
    with pytest.raises(UnknownNameError, match="did you mean 'openvino'"):
        sc.LatencyTable.measure(chain(8), X, "openvno")


@pytest.mark.parametrize(
    ("runtime", "extra"), [("onnxruntime", "export"), ("openvino", "openvino")]
)
def test_a_runtime_that_is_not_installed_names_its_extra(
    runtime: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    refused(MissingExtraError, f"secateur[{extra}]", budget=BUDGET, latency=runtime)


def test_what_latency_is_not_for() -> None:
    table = table_of(chain(8), staircase(4))
    refused(BudgetError, "zeros save no latency", granularity="2:4", budget=BUDGET)
    refused(InputError, "sparse", "round_to", granularity="2:4", round_to="auto")
    refused(InputError, "sparse", granularity="2:4", latency=table)
    refused(InputError, "budget", 'round_to="auto"', latency=table)
    refused(InputError, "LatencyTable", "dict", latency={}, budget=BUDGET)
    with pytest.raises(InputError, match="compact"):
        sc.compact(chain(8), X, round_to="auto")


def test_a_table_of_another_model_or_resolution_says_so() -> None:
    table = table_of(chain(8), staircase(4))
    net = chain(8)
    with pytest.raises(InputError, match=r"has no convolution .*\[12, 12\].*measure it"):
        sc.prune(net, torch.randn(2, 3, 12, 12), budget=BUDGET, latency=table)


@pytest.mark.parametrize("option", ["threads", "points", "runs"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_counts_that_are_no_counts(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=option):
        sc.LatencyTable.measure(chain(8), X, **{option: value})


def test_a_model_with_nothing_to_time() -> None:
    with pytest.raises(InputError, match="no weights"):
        sc.LatencyTable.measure(nn.ReLU(), X)

    def broken(kind: str, sizes: tuple[int, ...]) -> float:
        raise RuntimeError("no clock")

    with pytest.raises(InputError, match=r"can be timed in torch: .*no clock"):
        table_of(chain(8), broken)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_dtypes_that_a_runtime_does_not_take(runtime: str) -> None:
    with pytest.raises(InputError, match="bfloat16"):
        sc.LatencyTable.measure(chain(8).bfloat16(), X.bfloat16(), runtime)
