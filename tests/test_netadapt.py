"""NetAdapt: against a plain reading of the paper, against the optimum, and on a model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.search_problems import (
    best,
    chained,
    convex,
    favours,
    net,
    problem,
    separable,
    state,
    unchanged,
)
from torch import nn

import secateur as sc
from secateur.allocation import Amounts, NetAdapt, Problem, as_allocation
from secateur.errors import InputError

SIZES = (12, 9, 16)
CHAIN = chained(SIZES, (64, 16, 16, 1))
VALUE = convex((3.0, 1.0, 0.5))


def recorded(given: Problem) -> list[Amounts]:
    """Every choice that will be tried out, in order."""
    tried: list[Amounts] = []
    evaluate = given.evaluate
    assert evaluate is not None

    def listen(amounts: Amounts) -> float:
        tried.append(amounts)
        return evaluate(amounts)

    given.evaluate = listen
    return tried


def by_the_paper(given: Problem, rule: str, step: float, decay: float) -> list[list[Amounts]]:
    """The proposals of every iteration, the adopted one last; amounts by linear search."""
    dense = given.cost(given.none)["macs"]
    budget = given.budget["macs"]
    present, rounds = given.none, []
    while given.cost(present)["macs"] > budget:
        cost = given.cost(present)["macs"]
        target = max(cost - step * dense, budget)
        proposals = []
        for group, counts in enumerate(given.allowed):
            for count in counts[counts > present[group]].tolist():
                proposal = (*present[:group], count, *present[group + 1 :])
                if given.cost(proposal)["macs"] <= target + 1e-6:
                    proposals.append(proposal)
                    break
        assert proposals, "these problems never run out of steps"

        def merit(proposal: Amounts, cost: float = cost, before: float = VALUE(present)) -> float:
            if rule == "accuracy":
                return VALUE(proposal)
            return (VALUE(proposal) - before) / (cost - given.cost(proposal)["macs"])

        present = max(proposals, key=merit)
        rounds.append([*proposals, present])
        step *= decay
    return rounds


@pytest.mark.parametrize("rule", ["accuracy", "ratio"])
@pytest.mark.parametrize("budget", [0.8, 0.5])
@pytest.mark.parametrize("step", [0.02, 0.05, 0.11])
def test_it_does_what_the_paper_says(rule: str, budget: float, step: float) -> None:
    given = problem(SIZES, CHAIN, {"macs": budget}, VALUE)
    rounds = by_the_paper(given, rule, step, 0.98)
    tried = recorded(given)
    chosen = NetAdapt(rule, step, 0.98).amounts(given)  # type: ignore[arg-type]
    expected = [proposal for each in rounds for proposal in each[:-1]]
    assert tried == [given.none] * (rule == "ratio") + expected
    assert chosen == rounds[-1][-1]
    assert given.met(chosen)
    costs = [given.cost(each[-1])["macs"] for each in rounds]
    assert all(later < earlier for earlier, later in itertools.pairwise(costs))


@pytest.mark.parametrize("budget", [0.9, 0.6, 0.3, 0.15])
@pytest.mark.parametrize("weights", [(3, 1, 0.5), (1, 1, 1), (0.1, 5, 2)])
def test_the_known_best_is_found(budget: float, weights: tuple[float, ...]) -> None:
    # Units cost the same and damage is convex: one unit a step, the cheapest first, is optimal.
    sizes = (7, 5, 8)
    value = convex(weights)
    given = problem(sizes, separable(sizes, (1, 1, 1)), {"macs": budget}, value)
    chosen = NetAdapt(step=1 / 20, decay=1.0).amounts(given)
    assert given.met(chosen)
    assert value(chosen) == pytest.approx(best(given, value)[0], abs=1e-12)
    assert not any(
        given.met(tuple(a - (at == group) for at, a in enumerate(chosen)))
        for group in range(3)
        if chosen[group]
    ), "no unit went that could have stayed"


@pytest.mark.parametrize("budget", [0.5, 0.2, 0.05])
def test_published_steps_reach_every_budget(budget: float) -> None:
    given = problem(SIZES, CHAIN, {"macs": budget}, VALUE)
    assert given.met(NetAdapt().amounts(given))


def test_amounts_are_allowed_ones() -> None:
    allowed = [np.array([0, 4, 8]), np.arange(9), np.array([0, 8])]
    given = problem(SIZES, CHAIN, {"macs": 0.4}, VALUE, allowed=allowed)
    chosen = NetAdapt().amounts(given)
    assert given.floor(chosen) == chosen
    assert given.met(chosen)


def test_all_measures_of_a_budget_are_met() -> None:
    given = problem(SIZES, CHAIN, {"macs": 0.6, "params": 0.4}, VALUE)
    chosen = NetAdapt().amounts(given)
    assert given.met(chosen)
    looser = problem(SIZES, CHAIN, {"macs": 0.6}, VALUE)
    assert NetAdapt().amounts(looser) != chosen


def test_a_group_that_cannot_take_the_step_proposes_nothing() -> None:
    sizes = (3, 20)
    value = convex((0.0, 1.0))
    given = problem(sizes, separable(sizes, (1, 1)), {"macs": 0.6}, value)
    tried = recorded(given)
    # The first group has two units to give, less than the three of a step: until the last one,
    # which ends at the budget and needs but one.
    assert NetAdapt(step=3 / 23, decay=1.0).amounts(given) == (1, 9)
    assert not any(amounts[0] for amounts in tried[:3])


def test_where_nothing_can_take_a_step_alone_it_is_halved() -> None:
    sizes = (3, 3, 3)
    given = problem(sizes, separable(sizes, (1, 1, 1)), {"macs": 4 / 9}, convex((1, 1, 1)))
    assert sum(NetAdapt(step=1.0, decay=1.0).amounts(given)) == 5


def test_where_only_several_groups_together_save_they_go_together() -> None:
    def steps(amounts: Amounts) -> dict[str, float]:
        return {"macs": 4.0 - min(amounts)}

    given = problem((5, 5), steps, {"macs": 0.5}, convex((1, 1)))
    assert NetAdapt().amounts(given) == (2, 2)


def test_nothing_is_tried_where_the_budget_is_met() -> None:
    given = problem(SIZES, CHAIN, {"macs": 1.0}, VALUE)
    tried = recorded(given)
    assert NetAdapt().amounts(given) == given.none
    assert tried == []


@pytest.mark.parametrize("rule", ["accuracy", "ratio"])
def test_a_model_keeps_what_its_measure_favours(rule: str) -> None:
    model, x = net()
    result = sc.prune(
        model, x, allocation=f"netadapt:rule={rule},step=0.1", budget={"macs": 0.5},
        evaluate=favours,
    )  # fmt: skip
    assert 0.4 < result.after.macs / result.before.macs <= 0.5
    assert model[0].out_channels < 9
    assert model[3].out_channels > 14
    assert result.plan.settings["allocation"].startswith("netadapt:")


def test_copies_are_tuned_before_they_are_tried() -> None:
    model, x = net()
    before = state(model)
    seen: list[bool] = []

    def tune(copy: nn.Module) -> None:
        copy.train()
        with torch.no_grad():
            copy[-1].bias.fill_(7.0)  # type: ignore[index, union-attr, operator]

    def evaluate(copy: nn.Module) -> float:
        seen.append(bool((copy[-1].bias == 7.0).all()) and not copy.training)  # type: ignore[index]
        return favours(copy)

    allocation = NetAdapt(tune=tune, step=0.2)
    result = sc.prune(model, x, allocation=allocation, budget={"macs": 0.5}, evaluate=evaluate)
    assert seen
    assert all(seen)
    assert torch.equal(model[-1].bias, before["7.bias"]), "the result has the weights given"
    assert result.plan.settings["allocation"] == "netadapt:step=0.2"


def test_a_failing_measure_leaves_the_model_alone() -> None:
    model, x = net()
    before = state(model)

    def broken(copy: nn.Module) -> None:
        copy.zero_grad()
        raise RuntimeError("no data")

    with pytest.raises(InputError, match=r"tune raised RuntimeError.*no data"):
        sc.prune(model, x, allocation=NetAdapt(tune=broken), evaluate=favours)
    with pytest.raises(InputError, match="finite number"):
        sc.prune(model, x, allocation="netadapt", evaluate=lambda copy: float("nan"))
    with pytest.raises(InputError, match="'netadapt' tries models out: pass evaluate="):
        sc.prune(model, x, allocation="netadapt")
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("netadapt:rule=best", "unknown rule 'best'"),
        ("netadapt:step=0", "step=0 must lie"),
        ("netadapt:decay=1.5", "decay=1.5 must lie"),
        ("netadapt:tune=mine", "give it in Python"),
    ],
)
def test_bad_options(line: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_allocation(line)
