"""What cannot work is one clear error, and the model is bit for bit what it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from parity import assert_same, assert_slices, randomise, snapshot
from secateur.errors import (
    BudgetError,
    CriterionError,
    InputError,
    NothingToPruneError,
    PlanError,
    SecateurError,
    UnknownNameError,
)
from zoo import ZOO


def model() -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
    )


def refused(error: type[SecateurError], *words: str, net: nn.Module | None = None, **options: Any):
    """Prune, expect one line with these words, and an untouched model."""
    net = model() if net is None else net
    before = snapshot(net)
    inputs = options.pop("inputs", torch.randn(2, 3, 8, 6))
    with pytest.raises(error) as caught:
        sc.prune(net, inputs, **{"budget": {"macs": 0.5}, **options})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert_same(net, before)


@pytest.mark.parametrize("value", [0, -0.5, 1.5, float("nan"), "half", None, True])
def test_budget_outside_its_range(value: Any) -> None:
    refused(BudgetError, "macs", budget={"macs": value})


@pytest.mark.parametrize("budget", [{"mac": 0.5}, {}, {"latncy": 0.5}, 0.5, ["macs"]])
def test_budget_of_something_else(budget: Any) -> None:
    refused(SecateurError, budget=budget)


@pytest.mark.parametrize("unit", ["macs", "params", "bytes"])
def test_budget_that_cannot_be_met_says_how_close_it_gets(unit: str) -> None:
    refused(BudgetError, unit, "0.0", budget={unit: 1e-6})
    refused(BudgetError, unit, budget={unit: 0.2}, min_keep=14)


def test_inputs_that_the_model_rejects() -> None:
    refused(InputError, "RuntimeError", inputs=torch.randn(2, 4, 8, 6))
    refused(InputError, "TypeError", inputs={"image": torch.randn(2, 3, 8, 6)})
    refused(InputError, "tuple", inputs=7)


@pytest.mark.parametrize(
    ("option", "value", "nearest"),
    [
        ("criterion", "magnitud", "magnitude"),
        ("allocation", "unifrom", "uniform"),
        ("granularity", "chanel", "channel"),
    ],
)
def test_unknown_names_suggest_the_nearest(option: str, value: str, nearest: str) -> None:
    refused(UnknownNameError, value, nearest, **{option: value})


def test_ignore_that_matches_nothing() -> None:
    refused(UnknownNameError, "layer1", ignore=["layer1"])
    refused(UnknownNameError, "Linear", ignore=[nn.Linear(2, 2)])


@pytest.mark.parametrize("option", ["round_to", "min_keep"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_counts_that_are_no_counts(option: str, value: Any) -> None:
    refused(InputError, option, **{option: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    net = model()
    with torch.no_grad():
        net[3].weight[2, 1, 0, 0] = value
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=r"3\.weight"):
        sc.prune(net, torch.randn(2, 3, 8, 6), budget={"macs": 0.5})
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), state[name].nan_to_num())


def test_nothing_to_prune_names_what_stands_in_the_way() -> None:
    refused(NothingToPruneError, "0.weight", net=nn.Sequential(nn.Linear(8, 4)),
            inputs=torch.randn(2, 8))  # fmt: skip
    refused(NothingToPruneError, ignore=["0", "3"])


def test_criteria_that_do_not_score() -> None:
    def not_a_number(weight: Tensor) -> Tensor:
        return torch.full((weight.shape[0],), float("nan"))

    def too_short(weight: Tensor) -> Tensor:
        return weight.abs().sum(1)[1:]

    def negative_infinity(weight: Tensor) -> Tensor:
        return torch.full((weight.shape[0],), -torch.inf)

    for criterion in (not_a_number, too_short, negative_infinity):
        refused(CriterionError, criterion.__name__, "0.weight", criterion=criterion)


def test_parameters_on_several_devices() -> None:
    net = model()
    net[6] = nn.Linear(24, 5, device="meta")
    with pytest.raises(InputError, match="several devices"):
        sc.prune(net, torch.randn(2, 3, 8, 6))


def test_a_plan_for_another_model() -> None:
    plan = sc.prune(model(), torch.randn(2, 3, 8, 6), budget={"macs": 0.5}).plan
    wider = model()
    wider[3] = nn.Conv2d(16, 32, 3)
    shorter = nn.Sequential(nn.Conv2d(3, 16, 3))
    pruned = model()
    plan.apply(pruned)
    for other in (wider, shorter, pruned, ZOO["llama"].build()):
        before = snapshot(other)
        with pytest.raises(PlanError):
            plan.apply(other)
        assert_same(other, before)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', '{"format": 1}', "nonsense"])
def test_a_plan_that_is_none(text: str) -> None:
    with pytest.raises(PlanError):
        sc.Plan.from_json(text)


def test_training_mode_with_batch_norm_and_a_batch_of_one() -> None:
    net = model().train()
    net.insert(5, nn.BatchNorm2d(24))
    dense = copy.deepcopy(net)
    result = sc.prune(net, torch.randn(1, 3, 8, 6), budget={"macs": 0.5})
    assert all(module.training for module in net.modules())
    assert_slices(dense, net, result.plan)
