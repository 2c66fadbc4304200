"""AMC: near the best that there is, never over the budget, and the same for the same seed."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from tests.test_engines import make

import secateur as sc
from secateur.allocation import AMC, Amounts, GroupScores, Problem
from secateur.allocation.amc_states import FEATURES, Walls, features
from secateur.errors import InputError, MissingExtraError

pytest.importorskip("gymnasium", reason="the extra amc is not installed")
pytest.importorskip("stable_baselines3", reason="the extra amc is not installed")

SIZES = (12, 16, 8)
IMPORTANCE = (4.0, 1.0, 0.25)
ALLOWED = [np.arange(12), np.array([0, 4, 8, 12]), np.arange(8)]


def cost(amounts: Amounts) -> dict[str, float]:
    """Of a chain: every layer's inputs times its outputs."""
    left = [3, *(size - gone for size, gone in zip(SIZES, amounts, strict=True)), 5]
    return {"macs": float(sum(a * b for a, b in itertools.pairwise(left)))}


def accuracy(amounts: Amounts) -> float:
    """Falls with the square of what a group loses."""
    return 1 - sum(
        weight * (gone / size) ** 2
        for weight, gone, size in zip(IMPORTANCE, amounts, SIZES, strict=True)
    ) / sum(IMPORTANCE)


class Chain:
    """A problem that notes what is tried out."""

    def __init__(self, share: float = 0.5, seed: int = 0) -> None:
        self.tried: list[Amounts] = []
        self.dense = cost((0, 0, 0))["macs"]
        groups = [GroupScores(str(size), np.arange(1.0, size + 1)) for size in SIZES]
        self.problem = Problem(
            groups, ALLOWED, cost, {"macs": share * self.dense}, self.evaluate, seed
        )

    def evaluate(self, amounts: Amounts) -> float:
        self.tried.append(amounts)
        return accuracy(amounts)

    def best(self) -> float:
        return max(
            accuracy(amounts)
            for amounts in itertools.product(*(map(int, counts) for counts in ALLOWED))
            if self.problem.met(amounts)
        )


@pytest.mark.parametrize("share", [0.7, 0.5, 0.2])
@pytest.mark.parametrize("reward", ["error", "flops"])
def test_it_comes_near_the_best_and_never_over_the_budget(share: float, reward: str) -> None:
    chain = Chain(share)
    amounts = AMC(episodes=80, warmup=40, reward=reward).amounts(chain.problem)
    assert len(chain.tried) == 80
    assert all(chain.problem.met(tried) for tried in chain.tried)
    assert all(tried == chain.problem.floor(tried) for tried in chain.tried)
    assert amounts in chain.tried
    if reward == "error":
        assert accuracy(amounts) == max(map(accuracy, chain.tried))
        assert accuracy(amounts) > chain.best() - 0.02


def test_learning_beats_acting_at_random() -> None:
    """What the agent does after its warm-up is better on average than the warm-up itself."""
    chain = Chain(0.5)
    AMC(episodes=120, warmup=40).amounts(chain.problem)
    values = [accuracy(amounts) for amounts in chain.tried]
    assert np.mean(values[-30:]) > np.mean(values[:40]) + 0.02


def test_the_same_seed_gives_the_same_episodes_and_touches_no_random_state() -> None:
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second, other = Chain(), Chain(), Chain()
    options = {"episodes": 25, "warmup": 8}
    assert AMC(**options).amounts(first.problem) == AMC(**options).amounts(second.problem)
    AMC(**options, seed=1).amounts(other.problem)
    assert first.tried == second.tried != other.tried
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert state[2] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_the_wall_is_the_least_that_keeps_the_budget_in_reach() -> None:
    walls = Walls(Chain(0.3).problem)
    for first in range(12):
        for chosen in ([], [first]):
            needed = [
                int(count)
                for count in ALLOWED[len(chosen)]
                if walls.problem.met(walls.completed([*chosen, int(count)]))
            ]
            if needed:
                assert walls.least(chosen) == needed[0]


def test_there_are_eleven_features_within_0_and_1() -> None:
    walls = Walls(Chain().problem)
    for chosen in ([], [3], [3, 8], [3, 8, 7]):
        state = features(walls, chosen, 0.5)
        assert state.shape == (FEATURES,) == (11,)
        assert state.min() >= 0
        assert state.max() <= 1
    reduced, rest = features(walls, [3, 8], 0.5)[8:10]
    now = cost((3, 8, 0))["macs"]
    dense = walls.dense
    assert reduced == pytest.approx((dense - now) / dense)
    assert rest == pytest.approx((now - cost((3, 8, 7))["macs"]) / dense)


def test_a_model_is_pruned_within_its_budget() -> None:
    torch.manual_seed(1)
    net, x = make()

    def evaluate(model: torch.nn.Module) -> float:
        return 1 / (1 + abs(model[0].out_channels - 6))  # type: ignore[index, operator, arg-type]

    result = sc.prune(
        net, x, allocation="amc:episodes=30,warmup=20", budget={"macs": 0.5}, evaluate=evaluate
    )
    assert result.after.macs <= 0.5 * result.before.macs
    assert evaluate(net) >= 0.5


@pytest.mark.parametrize(
    "options", [{"episodes": 0}, {"warmup": 1.5}, {"reward": "speed"}, {"seed": -1}]
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"amc: {next(iter(options))} must be"):
        AMC(**options)  # type: ignore[arg-type]


def test_the_reward_of_flops_takes_accuracies_only() -> None:
    problem = Chain().problem
    problem.evaluate = lambda amounts: -3.0
    with pytest.raises(InputError, match="values between 0 and 1"):
        AMC(episodes=2, reward="flops").amounts(problem)


def test_without_its_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match=r"secateur\[amc\]"):
        AMC().amounts(Chain().problem)


def test_without_evaluate_there_is_one_clear_error() -> None:
    net, x = make()
    with pytest.raises(InputError, match="'amc' tries models out: pass evaluate="):
        sc.prune(net, x, allocation="amc")
