"""Schedules: how much at which step, against the published tables."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import InputError, SecateurError
from secateur.schedules import AGP, SCHEDULES, Iterative, MovementCubic, Schedule, as_schedule
from secateur.specs import catalogue

NAMES = [entry.names[0] for entry in catalogue(SCHEDULES)]
AGP_TABLE = [0, 0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    @pytest.mark.parametrize("initial", [0.0, 0.3])
    def test_it_rises_from_the_start_to_the_target(self, name: str, initial: float) -> None:
        schedule = SCHEDULES[name](target=0.8, steps=20, initial=initial, start=5, every=3)
        curve = [schedule.sparsity(step) for step in range(40)]
        assert curve[:6] == [initial] * 6
        assert curve[25:] == [0.8] * 15
        assert all(a <= b for a, b in pairwise(curve))
        assert all(type(value) is float for value in curve)

    def test_it_changes_only_every_so_many_steps(self, name: str) -> None:
        schedule = SCHEDULES[name](steps=12, every=4)
        fine = SCHEDULES[name](steps=12)
        for step in range(1, 12):
            assert schedule.sparsity(step) == fine.sparsity(step - step % 4) or step < 4

    def test_it_says_how_to_build_it_again(self, name: str) -> None:
        schedule = as_schedule(f"{name}:target=0.5,steps=7")
        again = as_schedule(schedule.spec)
        assert [again.sparsity(t) for t in range(9)] == [schedule.sparsity(t) for t in range(9)]

    def test_nothing_to_do_is_nothing_done(self, name: str) -> None:
        schedule = SCHEDULES[name](target=0.5, initial=0.5, steps=4)
        assert [schedule.sparsity(step) for step in range(6)] == pytest.approx([0.5] * 6)

    def test_the_pruner_takes_it(self, name: str) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        pruner = sc.Pruner(
            model,
            torch.zeros(1, 8),
            schedule=name,
            steps=4,
            granularity="element",
            budget={"sparsity": 0.75},
        )
        for _ in pruner:
            pass
        zeros = sum(int((p == 0).sum()) for p in (model[0].weight, model[2].weight))
        assert zeros == 144


def test_agp_is_the_published_table() -> None:
    schedule = AGP(target=0.9, steps=10)
    curve = [schedule.sparsity(step) for step in range(11)]
    assert curve == pytest.approx(AGP_TABLE, abs=5e-5)


def test_iterative_takes_the_same_rate_of_the_survivors() -> None:
    schedule = Iterative(target=0.9, steps=5)
    left = [1 - schedule.sparsity(step) for step in range(6)]
    rates = [1 - after / before for before, after in pairwise(left)]
    assert rates == pytest.approx([1 - 0.1**0.2] * 5)
    assert schedule.rate == pytest.approx(rates[0])


def test_movement_warms_up_and_cools_down() -> None:
    schedule = MovementCubic(target=0.9, steps=100, warmup=0.2, cooldown=0.3)
    assert schedule.sparsity(20) == 0.0
    assert schedule.sparsity(21) > 0.0
    assert [schedule.sparsity(20 + 5 * t) for t in range(11)] == pytest.approx(AGP_TABLE, abs=5e-5)
    assert schedule.sparsity(70) == schedule.sparsity(99) == 0.9


def test_asfp_passes_through_its_three_points() -> None:
    schedule = as_schedule("asfp:target=0.4,steps=800")
    assert [schedule.sparsity(t) for t in (0, 100, 800)] == pytest.approx([0, 0.3, 0.4])


def test_the_pruner_takes_an_object() -> None:
    class Late(Schedule):
        name = "late"

        def between(self, initial: float, target: float, progress: float) -> float:
            return initial + (target - initial) * progress**2

    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    pruner = sc.Pruner(model, torch.zeros(1, 8), schedule=Late(), steps=2, budget={"macs": 0.5})
    assert pruner.target(1) == {"macs": 0.875}
    assert pruner.target(2) == {"macs": 0.5}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("apg", "did you mean 'agp'"),
        ("agp:target=1.5", "target must be a number from 0 to 1, not 1.5"),
        ("agp:steps=0", "steps must be a number of at least 1, not 0"),
        ("movement:warmup=0.5,cooldown=0.5", "no time to prune in"),
    ],
)
def test_errors_are_one_clear_line(line: str, words: str) -> None:
    with pytest.raises(SecateurError) as caught:
        as_schedule(line)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="a name or an object"):
        as_schedule(3)  # type: ignore[arg-type]
