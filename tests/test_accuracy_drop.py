"""Accuracy in, ratio out: the smallest model within a drop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from tests.search_problems import favours, net, state, unchanged
from torch import nn

import secateur as sc
from secateur.allocation import NetAdapt
from secateur.drop import smallest
from secateur.errors import BudgetError, InputError


def channels(model: nn.Module) -> float:
    """A measure that falls with every channel: the share that is left of 32."""
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)) / 32


def found(drop: float, evaluate: object = channels, **options: object) -> sc.Result:
    model, x = net()
    return sc.prune(model, x, budget={"accuracy_drop": drop}, evaluate=evaluate, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("allocation", ["uniform", "global", "lamp", "isomorphic"])
@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_the_smallest_model_within_the_drop(allocation: str, drop: float) -> None:
    result = found(drop, allocation=allocation)
    measured = result.plan.settings["measured"]
    assert measured["dense"] == 1.0
    assert measured["pruned"] == channels(result.model)
    assert measured["drop"] == pytest.approx(1.0 - channels(result.model))
    assert measured["drop"] <= drop + 1e-9
    assert measured["macs"] == pytest.approx(result.after.macs / result.before.macs)
    # No fraction that is smaller by more than the search's resolution holds.
    for step in range(1, 64):
        model, x = net()
        try:
            other = sc.prune(
                model, x, allocation=allocation, budget={"macs": step / 64}, verify=False
            )
        except BudgetError:
            continue
        if 1 - channels(model) <= drop:
            assert other.after.macs / other.before.macs >= measured["macs"] - 1 / 128
            break


def test_it_prunes_as_the_macs_found_would() -> None:
    result = found(0.3)
    model, x = net()
    macs = result.plan.settings["measured"]["macs"]
    again = sc.prune(model, x, budget={"macs": macs + 1e-6})
    assert result.plan == again.plan
    assert result.plan.settings["budget"] == {"accuracy_drop": 0.3}


def test_the_plan_keeps_what_was_measured() -> None:
    plan = found(0.3).plan
    assert sc.Plan.from_json(plan.to_json()).settings["measured"] == plan.settings["measured"]


def test_no_drop_takes_only_what_costs_nothing() -> None:
    model = found(0.0).model
    assert channels(model) == 1.0
    # The measure does not look at the first convolution.
    model = found(0.0, evaluate=lambda m: float(m[3].out_channels), allocation="netadapt").model
    assert model[3].out_channels == 16  # type: ignore[index, union-attr]
    assert model[0].out_channels == 1  # type: ignore[index, union-attr]


def test_a_drop_that_everything_meets_gives_the_smallest_model_there_is() -> None:
    model = found(1.0).model
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [1, 1]


def test_a_measure_that_rises_on_the_way_is_not_left_too_early() -> None:
    def bumpy(model: nn.Module) -> float:
        left = channels(model)
        return 1.0 if left >= 0.6 or 0.5 <= left <= 0.56 else 0.0

    assert channels(found(0.1, evaluate=bumpy).model) <= 0.56


def test_allocations_that_try_models_out_decide_at_every_fraction() -> None:
    result = found(0.2, evaluate=favours, allocation="netadapt:step=0.1")
    first, second = (m.out_channels for m in result.model.modules() if isinstance(m, nn.Conv2d))
    assert first < 8
    assert second >= 13
    even = found(0.2, evaluate=favours, allocation="uniform")
    assert result.after.macs < even.after.macs


def test_the_drop_is_of_what_is_given_back() -> None:
    def tune(model: nn.Module) -> None:
        with torch.no_grad():
            model[-1].bias.fill_(100.0)  # type: ignore[index, union-attr, operator]

    def evaluate(model: nn.Module) -> float:
        return channels(model) + float(model[-1].bias.max() > 99)  # type: ignore[index, union-attr, operator]

    result = found(0.25, evaluate=evaluate, allocation=NetAdapt(step=0.2, tune=tune))
    assert result.plan.settings["measured"]["pruned"] == channels(result.model) >= 0.75


def test_noise_beyond_the_drop_is_said() -> None:
    model, x = net()
    before = state(model)
    numbers = itertools.count()

    def noisy(copy: nn.Module) -> float:
        return 0.9 + 0.02 * (next(numbers) % 2)

    with pytest.raises(InputError, match=r"not deterministic.*0\.9 and then 0\.92"):
        sc.prune(model, x, budget={"accuracy_drop": 0.01}, evaluate=noisy)
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"accuracy_drop": -0.1}, "must be a number from 0 on"),
        ({"accuracy_drop": math.nan}, "must be a number from 0 on"),
        ({"accuracy_drop": math.inf}, "must be a number from 0 on"),
        ({"accuracy_drop": "1%"}, "must be a number from 0 on"),
        ({"accuracy_drop": True}, "must be a number from 0 on"),
        ({"accuracy_drop": 0.1, "macs": 0.5}, "stands alone; drop macs"),
    ],
)
def test_bad_budgets(budget: dict[str, float], says: str) -> None:
    model, x = net()
    before = state(model)
    with pytest.raises(BudgetError, match=says):
        sc.prune(model, x, budget=budget, evaluate=channels)
    assert unchanged(model, before)


def test_bad_measures() -> None:
    model, x = net()
    before = state(model)
    budget = {"accuracy_drop": 0.1}
    with pytest.raises(InputError, match="accuracy_drop needs evaluate="):
        sc.prune(model, x, budget=budget)
    with pytest.raises(InputError, match="finite number"):
        sc.prune(model, x, budget=budget, evaluate=lambda copy: math.nan)

    def later(copy: nn.Module) -> float:
        if channels(copy) < 1:
            raise RuntimeError("no data")
        return 1.0

    with pytest.raises(InputError, match="evaluate raised RuntimeError"):
        sc.prune(model, x, budget=budget, evaluate=later)
    assert unchanged(model, before)


def test_where_it_does_not_apply() -> None:
    model, x = net()
    budget = {"accuracy_drop": 0.1}
    with pytest.raises(BudgetError, match="for structured granularities"):
        sc.prune(model, x, granularity="element", budget=budget, evaluate=channels)
    with pytest.raises(InputError, match=r"in one call of secateur\.prune"):
        sc.Pruner(model, x, budget=budget, evaluate=channels)


def test_smallest_measures_no_more_than_it_needs() -> None:
    asked: list[list[float]] = []

    def hold(fractions: Sequence[float]) -> list[bool]:
        asked.append(list(fractions))
        return [fraction >= 0.4 for fraction in fractions]

    assert 0.4 <= smallest(hold, 0.01) <= 0.4 + 1 / 128
    assert [len(fractions) for fractions in asked] == [1] * (1 + 7) + [5]
    assert smallest(lambda fractions: [True for _ in fractions], 0.01) == 0.01
    assert smallest(lambda fractions: [each == 1.0 for each in fractions], 0.01) == 1.0
