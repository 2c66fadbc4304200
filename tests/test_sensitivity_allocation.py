"""The allocation by sensitivity: optima that are known, budgets that hold, tables from before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.test_sensitivity import RATIOS, Fidelity, make
from torch import nn

import secateur as sc
from secateur.allocation import (
    Amounts,
    Curve,
    GroupScores,
    Problem,
    Sensitivity,
    SensitivityScan,
    as_allocation,
)
from secateur.errors import FileFormatError, InputError


def additive(
    damage: Sequence[Sequence[float]],
    budget: float,
    costs: Sequence[float] | None = None,
    allowed: Sequence[np.ndarray] | None = None,
) -> tuple[Problem, list[Amounts]]:
    """Layers whose damages add up: ``damage[i][n]`` when layer i loses n units."""
    each = [1.0] * len(damage) if costs is None else costs
    groups = [GroupScores(str(at), np.arange(len(row) - 1.0)) for at, row in enumerate(damage)]
    dense = sum(cost * (len(row) - 1) for cost, row in zip(each, damage, strict=True))
    tried: list[Amounts] = []

    def cost(amounts: Amounts) -> dict[str, float]:
        return {"macs": dense - sum(c * n for c, n in zip(each, amounts, strict=True))}

    def value(amounts: Amounts) -> float:
        tried.append(amounts)
        return 1.0 - sum(row[n] for row, n in zip(damage, amounts, strict=True))

    counts = [np.arange(len(row)) for row in damage] if allowed is None else list(allowed)
    return Problem(groups, counts, cost, {"macs": budget * dense}, value), tried


def worst(damage: Sequence[Sequence[float]], amounts: Amounts) -> float:
    """The largest damage that any layer does on the way to its amount."""
    return max(max(row[: n + 1]) for row, n in zip(damage, amounts, strict=True))


@pytest.mark.parametrize("budget", [0.9, 0.7, 0.5, 0.3, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_tolerance_that_meets_the_budget_is_found(seed: int, budget: float) -> None:
    """Against all choices of amounts: none that meets the budget has a smaller worst damage."""
    rng = np.random.default_rng(seed)
    damage = [[0.0, *rng.random(5).cumsum() * scale] for scale in (0.01, 0.05, 0.002)]
    costs = rng.integers(1, 9, 3).tolist()
    problem, _ = additive(damage, budget, costs)
    amounts = SensitivityScan(steps=5).amounts(problem)
    assert problem.met(amounts)
    # Steps of a sixth of five units: amounts 0 to 4 are tried, and the last only by default.
    choices = [c for c in itertools.product(range(5), repeat=3) if problem.met(c)]
    if choices:
        best = min(worst(damage, choice) for choice in choices)
        assert worst(damage, amounts) == pytest.approx(best)


def test_an_additive_model_with_known_damage_has_its_optimum() -> None:
    """Damage grows with the square of the share, a_i r²: r_i is proportional to 1 / sqrt(a_i)."""
    factors = (0.04, 0.01, 0.16)
    damage = [[a * (n / 60) ** 2 for n in range(61)] for a in factors]
    problem, _ = additive(damage, budget=1 - 0.35)
    amounts = SensitivityScan(steps=59).amounts(problem)
    weights = np.array([1 / math.sqrt(a) for a in factors])
    shares = 0.35 * 3 * weights / weights.sum()
    assert shares.max() < 1
    np.testing.assert_allclose(np.array(amounts) / 60, shares, atol=1 / 60)
    assert sum(amounts) == math.ceil(0.35 * 180 - 1e-9)


def test_interpolation_comes_as_near_with_few_trials() -> None:
    factors = (0.04, 0.01, 0.16)
    damage = [[a * n / 60 for n in range(61)] for a in factors]
    problem, tried = additive(damage, budget=1 - 0.2)
    amounts = SensitivityScan(steps=4, interpolate=True).amounts(problem)
    weights = np.array([1 / a for a in factors])
    np.testing.assert_allclose(
        np.array(amounts) / 60, 0.2 * 3 * weights / weights.sum(), atol=1 / 60
    )
    assert len(tried) == 1 + 3 * 4


def test_only_one_group_is_pruned_in_every_trial_and_none_twice() -> None:
    problem, tried = additive([[0.0] * 11] * 3, budget=0.5)
    SensitivityScan().amounts(problem)
    assert len(tried) == len(set(tried)) == 1 + 3 * 9
    assert tried[0] == (0, 0, 0)
    assert all(sum(n > 0 for n in amounts) == 1 for amounts in tried[1:])


def test_a_larger_drop_at_a_smaller_share_bars_what_follows() -> None:
    curve = Curve("a", 10, (2, 4, 6, 8), (0.8, 0.85, 0.9, 0.5), 0.9)
    assert curve.within(0.04) == 0
    assert curve.within(0.1) == 6
    assert curve.within(0.5) == 8
    # Layer 0 recovers at the end; what it loses on the way counts.
    problem, _ = additive([[0, 0.5, 0.5, 0.5, 0.0], [0, 0.1, 0.2, 0.3, 0.4]], budget=0.7)
    assert SensitivityScan(steps=4).amounts(problem) == (0, 3)


def test_shares_grow_with_the_tolerance() -> None:
    rng = np.random.default_rng(0)
    curves = tuple(
        Curve(str(at), 50, (5, 15, 25, 45), tuple(0.9 - rng.normal(0.05, 0.05, 4)), 0.9)
        for at in range(6)
    )
    table = Sensitivity(0.9, curves, (), "channel", "magnitude")
    for interpolate in (False, True):
        found = [table.amounts(t, interpolate) for t in np.linspace(0, 0.3, 61)]
        for less, more in itertools.pairwise(found):
            assert all(less[name] <= more[name] for name in less)
        assert set(found[-1].values()) == {45}
    assert all(
        table.amounts(0.02)[name] <= amount for name, amount in table.amounts(0.02, True).items()
    )
    with pytest.raises(InputError, match="tolerance"):
        table.amounts(-0.1)
    with pytest.raises(InputError, match="tolerance"):
        table.amounts(math.nan)


@pytest.mark.parametrize("interpolate", [False, True])
def test_units_go_at_their_smallest_tolerance(interpolate: bool) -> None:
    curve = Curve("a", 50, (5, 15, 25, 45), (0.88, 0.89, 0.7, 0.7), 0.9)
    amounts = np.arange(1, 51)
    for n, tolerance in zip(amounts, curve.tolerance_of(amounts, interpolate), strict=True):
        if n > 45:
            assert tolerance == math.inf
        else:
            assert curve.within(tolerance, interpolate) >= n - 1e-6
            assert tolerance == 0 or curve.within(0.999 * tolerance - 1e-8, interpolate) < n


@pytest.mark.parametrize("budget", np.linspace(0.02, 1, 25).tolist())
def test_the_budget_holds_and_one_unit_less_would_break_it(budget: float) -> None:
    rng = np.random.default_rng(0)
    damage = [[0.0, *rng.random(size).cumsum()] for size in (16, 3, 40)]
    problem, _ = additive(damage, budget)
    for interpolate in (False, True):
        amounts = SensitivityScan(interpolate=interpolate).amounts(problem)
        assert problem.met(amounts)
        assert sum(amounts) == math.ceil((1 - budget) * 59 - 1e-9)


def test_only_allowed_numbers_of_units_go() -> None:
    damage = [[0.01 * n for n in range(17)], [0.02 * n for n in range(17)]]
    allowed = [np.array([0, 8]), np.array([0, 4, 8, 12])]
    problem, tried = additive(damage, 0.6, allowed=allowed)
    amounts = SensitivityScan().amounts(problem)
    assert problem.met(amounts) and problem.floor(amounts) == amounts
    assert all(problem.floor(each) == each for each in tried)


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.3}, {"bytes": 0.4, "macs": 0.7}])
def test_every_budget_is_met_by_what_is_measured(budget: dict[str, float]) -> None:
    model, x = sc.models.small_resnet(), torch.randn(4, 1, 8, 8)
    result = sc.prune(
        model, x, allocation="sensitivity:steps=4", budget=budget, evaluate=Fidelity(model, x)
    )
    for measure, share in budget.items():
        assert getattr(result.after, measure) <= share * getattr(result.before, measure)


def test_a_layer_that_matters_keeps_more() -> None:
    net, x = make()

    def evaluate(model: nn.Module) -> float:
        return model[7].weight.shape[0] / 16 + 1e-3 * model[0].weight.shape[0] / 8

    result = sc.prune(net, x, allocation="sensitivity", budget={"params": 0.5}, evaluate=evaluate)
    kept = {group.name: group.after / group.before for group in result.groups}
    assert kept["7.weight"] == 1.0
    assert kept["3.weight"] < kept["0.weight"]
    assert result.plan.settings["allocation"] == "sensitivity"


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("interpolate", [False, True])
def test_zeros_go_where_they_do_no_damage(interpolate: bool, sparsity: float) -> None:
    net, x = make()

    def evaluate(model: nn.Module) -> float:
        return float((model[7].weight != 0).float().mean())

    result = sc.prune(
        net, x, granularity="element", allocation=SensitivityScan(interpolate=interpolate),
        budget={"sparsity": sparsity}, evaluate=evaluate,
    )  # fmt: skip
    masks = result.plan.masks
    entries = sum(mask.numel() for mask in masks.values())
    zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
    assert sum(zeros.values()) == math.floor(sparsity * entries + 1e-9)
    # All others could be 90 % zeros without any damage.
    spare = sum(0.89 * masks[name].numel() for name in masks if name != "7.weight")
    assert (zeros["7.weight"] == 0) == (sum(zeros.values()) < spare)


def test_zeros_of_an_additive_model_have_their_optimum() -> None:
    """Damage a_i r of entries that cost alike: r_i is proportional to 1 / a_i."""
    factors = {"0.weight": 0.02, "3.weight": 0.04, "7.weight": 0.02, "9.weight": 0.08}
    net, x = make()

    def evaluate(model: nn.Module) -> float:
        state = model.state_dict()
        return -sum(a * float((state[name] == 0).float().mean()) for name, a in factors.items())

    result = sc.prune(
        net, x, granularity="element", allocation="sensitivity:interpolate=True",
        budget={"sparsity": 0.3}, evaluate=evaluate,
    )  # fmt: skip
    sizes = {name: mask.numel() for name, mask in result.plan.masks.items()}
    scale = 0.3 * sum(sizes.values()) / sum(sizes[name] / a for name, a in factors.items())
    for name, mask in result.plan.masks.items():
        assert float((~mask).float().mean()) == pytest.approx(scale / factors[name], abs=0.02)


def test_two_in_four_leaves_nothing_to_scan() -> None:
    net, x = make()
    result = sc.prune(net, x, granularity="2:4", allocation="sensitivity")
    assert all(mask.any() for mask in result.plan.masks.values())


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_a_table_from_before_gives_the_same_plan_without_a_trial(
    granularity: str, tmp_path: Path
) -> None:
    net, x = make()
    budget = {"macs": 0.5} if granularity == "channel" else {"sparsity": 0.7}
    evaluate = Fidelity(net, x)
    ratios = [step / 10 for step in range(1, 10)]
    table = sc.sensitivity(net, x, evaluate, granularity=granularity, ratios=ratios)
    path = tmp_path / "scan.json"
    path.write_text(table.to_json())
    plans = []
    for allocation in (
        SensitivityScan(table=table), f"sensitivity:table={path}", SensitivityScan(table=path),
        "sensitivity",
    ):  # fmt: skip
        copied, _ = make()
        result = sc.prune(
            copied, x, granularity=granularity, allocation=allocation, budget=budget,
            evaluate=evaluate if allocation == "sensitivity" else None,
        )  # fmt: skip
        plans.append((result.plan.removed, {k: v.tolist() for k, v in result.plan.masks.items()}))
    assert all(plan == plans[0] for plan in plans)
    spec = SensitivityScan(table=str(path), interpolate=True).spec
    assert vars(as_allocation(spec)) == vars(SensitivityScan(interpolate=True, table=str(path)))


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_a_table_of_another_model_is_refused(granularity: str) -> None:
    net, x = make()
    options = {"granularity": granularity, "ratios": RATIOS}
    table = sc.sensitivity(net, x, Fidelity(net, x), ignore=["3"], **options)
    with pytest.raises(InputError, match=r"no group '3\.weight'"):
        sc.prune(net, x, granularity=granularity, allocation=SensitivityScan(table=table))
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    table = sc.sensitivity(net, torch.ones(1, 4), lambda model: 1.0, **options)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(InputError, match=r"units of '0\.weight', and the model"):
        sc.prune(
            net, torch.ones(1, 4), granularity=granularity, allocation=SensitivityScan(table=table)
        )


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    net, x = make()
    for granularity in ("channel", "element"):
        with pytest.raises(InputError, match="'sensitivity' tries models out: pass evaluate="):
            sc.prune(net, x, granularity=granularity, allocation="sensitivity")
    with pytest.raises(InputError, match="steps must be 1 or more"):
        as_allocation("sensitivity:steps=0")
    path = tmp_path / "notes.json"
    path.write_text("notes")
    with pytest.raises(FileFormatError, match="no table of a sensitivity scan"):
        sc.prune(net, x, allocation=f"sensitivity:table={path}")
    with pytest.raises(OSError, match="nothing"):
        sc.prune(net, x, allocation=f"sensitivity:table={tmp_path / 'nothing.json'}")
