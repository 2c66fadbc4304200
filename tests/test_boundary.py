"""Pruning what a model is given and what it returns, where that is asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import secateur as sc
from parity import assert_close, assert_same, prepared, silence, snapshot
from secateur.errors import BudgetError, InputError, NothingToPruneError
from zoo import ZOO, Entry

ASKED = {"prune_inputs": True, "prune_outputs": True}


class Dense(nn.Module):
    """Two inputs, of which one is added at the end; two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(6, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 6, 1))
        self.aside = nn.Conv2d(4, 6, 1)
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor, extra: torch.Tensor) -> dict[str, torch.Tensor]:
        y = x + self.body(x) + self.aside(extra)
        return {"map": y, "classes": self.head(y.mean((2, 3)))}


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"x": torch.randn(2, 6, 5, 5), "extra": torch.randn(2, 4, 5, 5)}


def pruned(**options: object) -> tuple[Dense, Dense, sc.Result]:
    torch.manual_seed(0)
    dense = Dense()
    small = copy.deepcopy(dense)
    result = sc.prune(
        small, inputs(), budget={"params": 0.4}, criterion="random", allocation="uniform", **options
    )
    return dense, small, result


def test_nothing_at_the_boundary_goes_unasked() -> None:
    _, small, result = pruned(ignore=())
    assert not result.plan.inputs and not result.plan.outputs
    assert small(**inputs())["classes"].shape == (2, 10)


def test_inputs_and_outputs_lose_what_the_plan_says() -> None:
    dense, small, result = pruned(**ASKED)
    plan = result.plan
    assert set(plan.inputs) == {"kwargs.x", "kwargs.extra"}
    assert set(plan.outputs) == {"output.map", "output.classes"}
    # The sum ties the first input to the first output.
    assert plan.inputs["kwargs.x"] == plan.outputs["output.map"]
    narrow = plan.narrow_inputs(inputs())
    expected = plan.narrow_outputs(silence(dense, plan)(**inputs()))
    actual = small(**narrow.kwargs)
    assert_close(actual, expected, "narrowed")
    assert actual["classes"].shape[1] < 10
    assert result.error is not None and result.error < 1e-5


@pytest.mark.parametrize("side", ["prune_inputs", "prune_outputs"])
def test_one_side_alone(side: str) -> None:
    _, _, result = pruned(**{side: True})
    assert bool(result.plan.inputs) == (side == "prune_inputs")
    assert bool(result.plan.outputs) == (side == "prune_outputs")
    # The first input and output are one: it needs both.
    assert "kwargs.x" not in result.plan.inputs and "output.map" not in result.plan.outputs


def test_the_plan_carries_it(tmp_path) -> None:
    dense, small, result = pruned(**ASKED)
    plan = sc.Plan.from_json(result.plan.to_json())
    assert plan == result.plan and (plan.inputs, plan.outputs) == (
        result.plan.inputs,
        result.plan.outputs,
    )
    other = copy.deepcopy(plan)
    other.inputs["kwargs.extra"] = {1: [0]}
    assert any(line.startswith("kwargs.extra dim 1") for line in plan.diff(other)) or (
        plan.inputs["kwargs.extra"] == {1: [0]}
    )
    path = sc.save(small, tmp_path / "small.safetensors")
    loaded = sc.load(Dense(), path)
    x = plan.narrow_inputs(inputs()).kwargs
    assert torch.equal(loaded(**x)["classes"], small(**x)["classes"])
    assert plan.narrow_inputs(inputs()).kwargs["extra"].shape[1] < 4
    assert dense(**inputs())["map"].shape[1] == 6


def test_only_what_fits_the_dense_model_is_narrowed() -> None:
    _, small, result = pruned(**ASKED)
    narrow = result.plan.narrow_inputs(inputs())
    with pytest.raises(InputError, match=r"kwargs\.x has size \d along dimension 1"):
        result.plan.narrow_inputs(narrow)
    with pytest.raises(InputError, match=r"output\.map has size"):
        result.plan.narrow_outputs(small(**narrow.kwargs))


def test_ignoring_and_rounding_hold_at_the_boundary_too() -> None:
    _, small, result = pruned(**ASKED, ignore=["head"])
    assert "output.classes" not in result.plan.outputs
    assert small.head.out_features == 10
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 16))
    sc.prune(net, torch.randn(3, 32), budget={"params": 0.4}, round_to=8, **ASKED)
    assert net[2].out_features % 8 == 0 and net[0].out_features % 8 == 0


def test_in_steps() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 12)), torch.randn(4, 16)
    taken, made = [16], [12]
    options = {"budget": {"params": 0.2}, "allocation": "uniform", "criterion": "random"}
    for result in sc.Pruner(net, x, steps=3, **options, **ASKED):
        taken.append(result.model[0].in_features)
        made.append(result.model[2].out_features)
        x = result.plan.narrow_inputs(x).args[0]
        assert net(x).shape == (4, made[-1])
    assert taken == sorted(taken, reverse=True) and taken[-1] < taken[1] < 16
    assert made == sorted(made, reverse=True) and made[-1] < 12
    with pytest.raises(InputError, match="prune_inputs=True changes"):
        sc.Pruner(net, x, data=[(x, x)], prune_inputs=True)


def test_positions_are_no_features() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(1, 7, 8))
            self.up, self.down = nn.Linear(8, 20), nn.Linear(20, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(torch.relu(self.up(x + self.positions)))

    torch.manual_seed(0)
    net = Positions()
    result = sc.prune(net, torch.randn(2, 7, 8), budget={"params": 0.3}, **ASKED)
    assert set(result.plan.inputs) <= {"args.0"} and net.positions.shape[1] == 7
    assert set(result.plan.inputs.get("args.0", {})) <= {2}
    assert net.positions.shape[2] < 8


@pytest.mark.parametrize("entry", ZOO.values(), ids=lambda entry: entry.name)
def test_every_idiom_is_exact_with_an_open_boundary(entry: Entry) -> None:
    model, example = prepared(entry, 4)
    before = snapshot(model)
    try:
        result = sc.prune(
            model, example, budget={"params": 0.7}, criterion="random", allocation="uniform",
            seed=4, **ASKED,
        )  # fmt: skip
    except (BudgetError, NothingToPruneError):
        assert_same(model, before)
        return
    assert result.error is not None
    narrow = result.plan.narrow_inputs(example)
    assert sc.profile(model, narrow).params == result.after.params
