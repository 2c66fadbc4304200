"""Allocations: a contract that every registered one is held to, and oracles for each."""

from __future__ import annotations

import inspect
from collections import Counter

import numpy as np
import pytest

from secateur.allocation import ALLOCATIONS, Amounts, GroupScores, Problem, as_allocation
from secateur.errors import InputError, UnknownNameError
from secateur.specs import catalogue

SIZES = (7, 16, 1, 10)


def variants() -> list[str]:
    names = [entry.names[0] for entry in catalogue(ALLOCATIONS)]
    lines = [name for name in names if as_allocation(name).structured]
    return [*lines, "global:normalize=mean", "global:normalize=raw"]


def make_groups(seed: int = 0, scale: float = 1.0) -> list[GroupScores]:
    rng = np.random.default_rng(seed)
    return [
        GroupScores(f"layer{index}", scale * 10**index * rng.random(size))
        for index, size in enumerate(SIZES)
    ]


def constant_groups(value: float = 1.0) -> list[GroupScores]:
    return [GroupScores(f"layer{i}", np.full(size, value)) for i, size in enumerate(SIZES)]


@pytest.mark.parametrize("allocation", variants())
class TestContract:
    def test_every_unit_goes_once(self, allocation: str) -> None:
        order = as_allocation(allocation).order(make_groups())
        assert sorted(order) == [(g, u) for g, size in enumerate(SIZES) for u in range(size)]
        assert all(type(g) is int and type(u) is int for g, u in order)

    def test_within_a_group_the_lowest_score_goes_first(self, allocation: str) -> None:
        groups = make_groups()
        order = as_allocation(allocation).order(groups)
        for index, group in enumerate(groups):
            mine = [unit for owner, unit in order if owner == index]
            assert mine == list(np.argsort(group.scores, kind="stable"))

    @pytest.mark.parametrize("value", [0.0, 1.0, 1e-320, 1e300, -2.0])
    def test_ties_break_by_index(self, allocation: str, value: float) -> None:
        order = as_allocation(allocation).order(constant_groups(value))
        for index, size in enumerate(SIZES):
            assert [unit for owner, unit in order if owner == index] == list(range(size))

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_a_constant_criterion_takes_equal_shares(self, allocation: str, value: float) -> None:
        if allocation == "lamp" and value:
            pytest.skip("what is left of a layer counts, so equal scores even out the sizes")
        order = as_allocation(allocation).order(constant_groups(value))
        for k in range(len(order) + 1):
            gone = Counter(owner for owner, _ in order[:k])
            for index, size in enumerate(SIZES):
                assert abs(gone[index] - k * size / sum(SIZES)) <= 1.5

    def test_deterministic(self, allocation: str) -> None:
        make = as_allocation(allocation)
        assert make.order(make_groups()) == make.order(make_groups())

    def test_the_scale_of_all_scores_does_not_matter(self, allocation: str) -> None:
        make = as_allocation(allocation)
        assert make.order(make_groups(scale=2.0**40)) == make.order(make_groups())

    def test_negative_scores_keep_their_order(self, allocation: str) -> None:
        groups = [GroupScores("a", np.array([-1.0, -3.0, -2.0])), GroupScores("b", np.zeros(2))]
        order = as_allocation(allocation).order(groups)
        assert [unit for owner, unit in order if owner == 0] == [1, 2, 0]

    def test_units_that_were_not_judged_never_go(self, allocation: str) -> None:
        judged = np.array([True, False, True])
        groups = [
            GroupScores("a", np.array([3.0, np.nan, 1.0]), judged=judged),
            GroupScores("b", np.zeros(2), judged=np.zeros(2, dtype=bool)),
        ]
        assert as_allocation(allocation).order(groups) == [(0, 2), (0, 0)]

    def test_nothing_to_order(self, allocation: str) -> None:
        make = as_allocation(allocation)
        assert make.order([]) == []
        assert make.order([GroupScores("empty", np.zeros(0))]) == []

    def test_scores_are_not_changed(self, allocation: str) -> None:
        groups = make_groups()
        as_allocation(allocation).order(groups)
        for group, fresh in zip(groups, make_groups(), strict=True):
            assert (group.scores == fresh.scores).all()

    def test_nan_is_one_clear_error(self, allocation: str) -> None:
        with pytest.raises(InputError, match=r"'a'.*finite"):
            as_allocation(allocation).order([GroupScores("a", np.array([1.0, np.nan]))])

    def test_lengths_must_agree(self, allocation: str) -> None:
        with pytest.raises(InputError, match=r"'a'.*one length"):
            as_allocation(allocation).order([GroupScores("a", np.ones(3), weights=np.ones(2))])

    def test_the_spec_builds_it_again(self, allocation: str) -> None:
        made = as_allocation(allocation)
        assert vars(as_allocation(made.spec)) == vars(made)

    def test_documented(self, allocation: str) -> None:
        assert (inspect.getdoc(type(as_allocation(allocation))) or "").strip()

    def test_many_units_are_ordered_fast(self, allocation: str) -> None:
        rng = np.random.default_rng(0)
        groups = [GroupScores(str(i), rng.random(1000)) for i in range(100)]
        assert len(as_allocation(allocation).order(groups)) == 100_000


def test_global_normalises_by_the_mean_of_each_group() -> None:
    groups = [
        GroupScores("a", np.array([10.0, 20.0, 30.0])),
        GroupScores("b", np.array([0.6, 1.4])),
    ]
    # means 20 and 1: 0.5, 1.0, 1.5 against 0.6, 1.4
    assert as_allocation("global").order(groups) == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]


def test_global_ranks_comparable_scores_as_they_are() -> None:
    groups = [
        GroupScores("a", np.array([10.0, 20.0]), comparable=True),
        GroupScores("b", np.array([0.6, 1.4]), comparable=True),
    ]
    assert as_allocation("global").order(groups) == [(1, 0), (1, 1), (0, 0), (0, 1)]
    assert as_allocation("global:normalize=mean").order(groups)[0] == (1, 0)
    assert as_allocation("global:normalize=mean").order(groups)[1] == (0, 0)


def test_global_leaves_out_the_units_that_were_not_judged() -> None:
    judged = np.array([True, True, False])
    groups = [
        GroupScores("a", np.array([1.0, 3.0, 1e9]), judged=judged),
        GroupScores("b", np.array([0.9, 1.1])),
    ]
    assert as_allocation("global").order(groups) == [(0, 0), (1, 0), (1, 1), (0, 1)]


def test_global_treats_a_group_of_zeros_as_constant() -> None:
    groups = [GroupScores("dead", np.zeros(2)), GroupScores("alive", np.array([0.5, 1.5]))]
    assert as_allocation("global").order(groups) == [(1, 0), (0, 0), (0, 1), (1, 1)]


def test_uniform_counts_classes_not_units() -> None:
    heavy = GroupScores("heavy", np.array([1.0, 2.0]), weights=np.array([3, 1]))
    plain = GroupScores("plain", np.arange(4.0))
    order = as_allocation("uniform").order([heavy, plain])
    # middles of the shares: heavy 0.375, 0.875; plain 0.125, 0.375, 0.625, 0.875
    assert order == [(1, 0), (0, 0), (1, 1), (1, 2), (0, 1), (1, 3)]


def test_uniform_takes_the_same_share_of_every_group() -> None:
    groups = [
        GroupScores("a", np.random.default_rng(0).random(8)),
        GroupScores("b", np.arange(4.0)),
    ]
    half = as_allocation("uniform").order(groups)[:6]
    assert Counter(owner for owner, _ in half) == {0: 4, 1: 2}


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'uniform'"):
        as_allocation("uniformly")


def test_bad_options() -> None:
    with pytest.raises(InputError, match="normalize"):
        as_allocation("global:normalize=median")
    with pytest.raises(InputError, match="must be a name"):
        as_allocation(3)  # type: ignore[arg-type]


def coarse_and_fine(budget: float) -> Problem:
    """One group that loses half of itself or nothing, and two that lose any number of units."""
    groups = [
        GroupScores("coarse", np.arange(8) / 8 + 0.01),
        GroupScores("fine", np.arange(100) / 100),
        GroupScores("other", np.arange(100) / 100 + 0.5),
    ]
    allowed = [np.array([0, 4]), np.arange(100), np.arange(100)]

    def cost(amounts: Amounts) -> dict[str, float]:
        return {"macs": 1000.0 - 100 * amounts[0] - 2 * amounts[1] - amounts[2]}

    return Problem(groups, allowed, cost, {"macs": 1000 * budget})


@pytest.mark.parametrize("budget", [0.95, 0.9, 0.7, 0.6, 0.5, 0.45, 0.4])
def test_what_a_large_step_saves_goes_back_to_the_others(budget: float) -> None:
    given = coarse_and_fine(budget)
    amounts = as_allocation("global:normalize=raw").amounts(given)
    assert given.met(amounts)
    # Only where the large step alone saves more than asked for is there nothing to give back.
    if amounts != (4, 0, 0):
        assert given.unused(amounts) <= 0.01


def test_small_steps_are_the_shortest_start_of_the_order() -> None:
    given = coarse_and_fine(0.85)
    given.allowed[0] = np.array([0])
    allocation = as_allocation("global:normalize=raw")
    owners = [owner for owner, _ in allocation.order(given.groups)]
    starts = (
        given.floor([owners[:length].count(group) for group in range(3)])
        for length in range(len(owners) + 1)
    )
    assert allocation.amounts(given) == next(start for start in starts if given.met(start))
