"""Allocations that try models out: the problem they are given, and what trying out may not do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.allocation import Allocation, Amounts, GroupScores, Problem
from secateur.errors import InputError


class Tries(Allocation):
    """Tries the fullest and the emptiest model, then takes the shortest sufficient start."""

    name = "tries"

    def __init__(self) -> None:
        self.values: list[float] = []

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return shares

    def amounts(self, problem: Problem) -> Amounts:
        for amounts in (problem.none, problem.most, problem.none):
            self.values.append(problem.value(amounts, self.name))
        return super().amounts(problem)


def make() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(),
        nn.Linear(16, 4),
    )  # fmt: skip
    return net, torch.randn(2, 3, 8, 8)


def size(model: nn.Module) -> float:
    return float(sum(p.numel() for p in model.parameters()))


def test_what_is_tried_out_is_the_pruned_model() -> None:
    net, x = make()
    seen: list[list[int]] = []

    def evaluate(model: nn.Module) -> float:
        assert model is not net
        assert not model.training
        model(x)
        seen.append([m.weight.shape[0] for m in model if isinstance(m, (nn.Conv2d, nn.Linear))])
        return -size(model)

    allocation = Tries()
    dense = size(net)
    sc.prune(net, x, allocation=allocation, budget={"params": 0.5}, evaluate=evaluate)
    # The same choice is tried once; the dense model once more, to see whether that is enough.
    assert seen == [[8, 12, 16, 4], [8, 12, 16, 4], [1, 1, 1, 4]]
    assert allocation.values[0] == allocation.values[2] == -dense


def test_trying_out_leaves_the_model_and_the_random_state_alone() -> None:
    net, x = make()
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape))
        raise RuntimeError("out of data")

    with pytest.raises(InputError, match=r"evaluate raised RuntimeError.*out of data"):
        sc.prune(net, x, allocation=Tries(), budget={"params": 0.5}, evaluate=evaluate)
    assert torch.equal(state, torch.get_rng_state())
    assert net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "good", torch.ones(2)])
def test_what_is_no_number_is_refused(value: object) -> None:
    net, x = make()
    with pytest.raises(InputError, match="finite number"):
        sc.prune(net, x, allocation=Tries(), budget={"params": 0.5}, evaluate=lambda model: value)


def test_without_evaluate_there_is_one_clear_error() -> None:
    net, x = make()
    with pytest.raises(InputError, match="'tries' tries models out: pass evaluate="):
        sc.prune(net, x, allocation=Tries(), budget={"params": 0.5})


def test_floor_takes_the_next_allowed_number_below() -> None:
    groups = [GroupScores("a", np.arange(9.0)), GroupScores("b", np.arange(5.0))]

    def cost(amounts: Sequence[int]) -> dict[str, float]:
        return {"macs": 100.0 - sum(amounts)}

    problem = Problem(groups, [np.array([0, 4, 8]), np.arange(4)], cost, {"macs": 95})
    assert problem.floor([3.9, 2.0]) == (0, 2)
    assert problem.floor([100, 100]) == problem.most == (8, 3)
    assert problem.met((4, 1))
    assert not problem.met((4, 0))
