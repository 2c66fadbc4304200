"""Knapsack: the optimum where costs add up, near it where they multiply, never over the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.search_problems import best, chained, convex, net, problem, separable, state, unchanged
from torch import nn

import secateur as sc
from secateur.allocation import Amounts, Knapsack, Problem, as_allocation, scan
from secateur.errors import InputError, MissingExtraError

pytest.importorskip("scipy")


def saliency(given: Problem) -> dict[Amounts, float]:
    """What is kept of raw scores, by amounts: all that go are the lowest of their group."""

    class Kept(dict):  # type: ignore[type-arg]
        def __missing__(self, amounts: Amounts) -> float:
            return -sum(
                float(np.sort(group.scores)[:count].sum())
                for group, count in zip(given.groups, amounts, strict=True)
            )

    return Kept()


def random_scores(seed: int, sizes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(size) * rng.uniform(0.2, 3) for size in sizes]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [0.75, 0.5, 0.25])
def test_the_optimum_where_costs_add_up(seed: int, budget: float) -> None:
    rng = np.random.default_rng(100 + seed)
    sizes = tuple(int(size) for size in rng.integers(5, 9, 4))
    cost = separable(sizes, rng.integers(1, 9, 4).tolist())
    given = problem(sizes, cost, {"macs": budget}, scores=random_scores(seed, sizes))
    kept = saliency(given)
    chosen = Knapsack().amounts(given)
    assert given.met(chosen)
    assert kept[chosen] == pytest.approx(best(given, kept.__getitem__)[0], rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [0.75, 0.5, 0.25])
def test_near_the_optimum_where_costs_multiply(seed: int, budget: float) -> None:
    rng = np.random.default_rng(100 + seed)
    sizes = tuple(int(size) for size in rng.integers(5, 9, 4))
    cost = chained(sizes, (16, 9, 4, 9, 1))
    given = problem(sizes, cost, {"macs": budget}, scores=random_scores(seed, sizes))
    kept = saliency(given)
    chosen = Knapsack().amounts(given)
    assert given.met(chosen)
    top = best(given, kept.__getitem__)[0]
    # Of the saliency that the best loses, no more than a tenth is lost on top.
    assert kept[chosen] >= 1.1 * top
    for name in ("global", "uniform"):
        assert kept[chosen] >= kept[as_allocation(name).amounts(given)]


def test_mostly_the_optimum_where_costs_multiply() -> None:
    hits = 0
    for seed in range(12):
        sizes = (6, 8, 5)
        given = problem(
            sizes, chained(sizes, (16, 9, 4, 1)), {"macs": 0.4}, scores=random_scores(seed, sizes)
        )
        kept = saliency(given)
        chosen = Knapsack().amounts(given)
        hits += kept[chosen] == pytest.approx(best(given, kept.__getitem__)[0], rel=1e-9)
    assert hits >= 10


def test_several_measures_are_all_met() -> None:
    sizes = (8, 6, 7)
    cost = chained(sizes, (16, 4, 1, 1))
    given = problem(sizes, cost, {"macs": 0.5, "params": 0.35}, scores=random_scores(0, sizes))
    assert given.met(Knapsack().amounts(given))


def test_amounts_are_allowed_ones() -> None:
    sizes = (9, 9, 9)
    allowed = [np.array([0, 4, 8]), np.array([0]), np.arange(9)]
    given = problem(sizes, separable(sizes, (1, 1, 1)), {"macs": 0.6},
                    scores=random_scores(1, sizes), allowed=allowed)  # fmt: skip
    chosen = Knapsack().amounts(given)
    assert given.floor(chosen) == chosen
    assert given.met(chosen)
    kept = saliency(given)
    assert kept[chosen] == pytest.approx(best(given, kept.__getitem__)[0], rel=1e-9)


def test_with_few_choices_exchanges_find_what_lies_between() -> None:
    sizes = (40, 30, 50)
    scores = [np.full(size, 1.0) for size in sizes]
    given = problem(sizes, separable(sizes, (3, 2, 1)), {"macs": 0.5}, scores=scores)
    # All alike: those that cost most go first, 39 at 3 for the 115 to save.
    kept = saliency(given)
    coarse, fine = (kept[Knapsack(choices=n).amounts(given)] for n in (3, 64))
    assert fine == -39
    assert coarse == pytest.approx(fine, rel=0.05)


def test_the_same_every_time_and_nothing_where_the_budget_is_met() -> None:
    sizes = (8, 6, 7)

    def make(budget: float) -> Problem:
        cost = chained(sizes, (16, 4, 1, 1))
        return problem(sizes, cost, {"macs": budget}, scores=random_scores(2, sizes))

    assert Knapsack().amounts(make(0.4)) == Knapsack().amounts(make(0.4))
    assert Knapsack().amounts(make(1.0)) == (0, 0, 0)


def test_scores_of_different_scale_are_compared_as_global_does() -> None:
    sizes = (6, 6)
    rng = np.random.default_rng(0)
    scores = [rng.random(6), rng.random(6)]
    chosen = []
    for scale in (1.0, 1e6):
        given = problem(sizes, separable(sizes, (1, 1)), {"macs": 0.5})
        given.groups = [
            type(group)(group.name, each * factor)
            for group, each, factor in zip(given.groups, scores, (1.0, scale), strict=True)
        ]
        chosen.append(Knapsack().amounts(given))
    assert chosen[0] == chosen[1]


def test_a_model_loses_units_that_matter_little_and_cost_much() -> None:
    model, x = net()
    with torch.no_grad():
        for conv in (model[0], model[3]):
            conv.weight.copy_(torch.ones_like(conv.weight))  # type: ignore[union-attr, arg-type]
            conv.weight[:4] *= 0.01  # type: ignore[index, union-attr, operator]
    result = sc.prune(
        model, x, criterion="l2:view=producer", allocation="knapsack", budget={"macs": 0.6}
    )
    assert result.after.macs <= 0.6 * result.before.macs
    assert {group.name: group.after for group in result.groups} == {"0.weight": 12, "3.weight": 12}


def test_a_failure_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net()
    before = state(model)

    def absent(name: str) -> nn.Module:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(MissingExtraError, match=r"'scipy'.*secateur\[search\]"):
        sc.prune(model, x, allocation="knapsack")
    assert unchanged(model, before)


@pytest.mark.parametrize("line", ["knapsack:choices=1", "knapsack:rounds=0"])
def test_bad_options(line: str) -> None:
    with pytest.raises(InputError, match="must be an integer of at least"):
        as_allocation(line)


@pytest.mark.parametrize("budget", [0.8, 0.5])
def test_measured_losses_reach_the_optimum_of_what_adds_up(budget: float) -> None:
    sizes = (6, 7, 5)
    value = convex([3.0, 1.0, 9.0])
    given = problem(sizes, separable(sizes, [1, 2, 3]), {"macs": budget}, value)
    # Every amount is tried out, so nothing is read off between.
    chosen = Knapsack(losses="measured", steps=200).amounts(given)
    assert given.met(chosen)
    assert value(chosen) == pytest.approx(best(given, value)[0], abs=1e-12)


def test_a_table_spares_the_trials() -> None:
    sizes = (6, 7)
    tried: list[Amounts] = []

    def value(amounts: Amounts) -> float:
        tried.append(amounts)
        return convex([3.0, 1.0])(amounts)

    given = problem(sizes, separable(sizes, [1, 1]), {"macs": 0.5}, value)
    table = scan(given, [0.3, 0.6, 0.9], "knapsack")
    fresh = Knapsack(losses="measured", steps=9).amounts(given)
    tried.clear()
    assert Knapsack(losses="measured", table=table).amounts(given)
    assert not tried
    assert Knapsack(losses="measured", table=table).spec == "knapsack:losses=measured"
    assert given.met(fresh)
    other = problem((6, 8), separable((6, 8), [1, 1]), {"macs": 0.5}, value)
    with pytest.raises(InputError, match="7 units of 'g1', and the model 8"):
        Knapsack(losses="measured", table=table).amounts(other)


def test_losses_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="unknown losses 'mesured'; did you mean 'measured'"):
        as_allocation("knapsack:losses=mesured")
    with pytest.raises(InputError, match="table= is for losses='measured'"):
        Knapsack(table="scan.json")
    given = problem((4, 4), separable((4, 4), [1, 1]), {"macs": 0.5})
    with pytest.raises(InputError, match="pass evaluate="):
        Knapsack(losses="measured").amounts(given)
