"""N:M in steps: the number that stays falls along the schedule, and what went stays away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.errors import BudgetError, InputError

X = torch.zeros(1, 16)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8))


def runs(weight: Tensor, of: int, dim: int = 1) -> list[int]:
    """How many of every run of M stay: the numbers that occur."""
    return (weight != 0).unflatten(dim, (-1, of)).sum(dim + 1).unique().tolist()


@pytest.mark.parametrize(
    ("granularity", "schedule", "wanted"),
    [
        ("1:4", "linear", [3, 2, 1]),
        ("2:4", "linear", [3, 3, 2]),
        ("2:4:transposable", "linear", [3, 3, 2]),
        ("2:8", "agp", [4, 3, 2]),  # 0.528 and 0.722 of the way to 0.75
        ("2:4", "one_shot", [2, 2, 2]),
    ],
)
def test_the_number_that_stays_follows_the_schedule(
    granularity: str, schedule: str, wanted: list[int]
) -> None:
    model, of = net(), int(granularity.split(":")[1])
    pruner = sc.Pruner(model, X, granularity=granularity, schedule=schedule, steps=3)
    before: dict[str, Tensor] = {}
    found = []
    for result in pruner:
        for name, mask in result.plan.masks.items():
            assert name not in before or not bool((mask & ~before[name]).any())
        before = dict(result.plan.masks)
        with torch.no_grad():
            for layer in (model[0], model[2]):
                # Training in between: what is masked stays so.
                layer.weight.add_(0.1 * torch.randn_like(layer.weight))
                layer.weight.mul_(sc.masks_of(model)[f"{list(model).index(layer)}.weight"])
        kept = [runs(layer.weight, of) for layer in (model[0], model[2])]
        assert kept[0] == kept[1] and len(kept[0]) == 1
        if "transposable" in granularity:
            assert runs(model[0].weight, of, dim=0) == kept[0]
        found += kept[0]
    assert found == wanted


@pytest.mark.parametrize("granularity", ["2:4", "2:4:transposable", "2:8:transposable"])
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_what_is_masked_goes_first(granularity: str, criterion: str) -> None:
    """Whatever a criterion makes of zeros: no run may lose more than N:M asks for."""
    model, of = net(), int(granularity.split(":")[1])
    sc.prune(model, X, granularity=granularity.replace("2", f"{of - 1}", 1), criterion="magnitude")
    sc.prune(model, X, granularity=granularity, criterion=criterion, seed=3)
    assert runs(model[0].weight, of) == [2]


def test_what_cannot_go_in_steps_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="'vector:4/2:4' without a budget is chosen at once"):
        sc.Pruner(net(), X, granularity="vector:4/2:4", steps=2)
    with pytest.raises(BudgetError, match="contradicts granularity '2:4'"):
        sc.Pruner(net(), X, granularity="2:4", budget={"sparsity": 0.7})
    steps = sc.Pruner(
        net(), X, granularity="vector:4/2:4", schedule="linear", steps=4, budget={"sparsity": 0.8}
    )
    with pytest.raises(BudgetError, match=r"too low .* its N:M alone makes 0\.5"):
        next(iter(steps))
