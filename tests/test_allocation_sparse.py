"""Allocations of sparse granularities: LAMP, Erdős-Rényi-kernel, uniform with exceptions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.hand_graph import clear_error, make_data, make_net
from torch import Tensor, nn

import secateur as sc
from secateur.allocation import ERK, LAMP, GroupScores, UniformPlus, as_allocation
from secateur.errors import BudgetError, InputError

SHAPES = [(16, 3, 3, 3), (32, 16, 3, 3), (10, 32)]


def pruned(net: nn.Module, allocation: str, sparsity: float, **kwargs: object) -> dict[str, Tensor]:
    inputs = make_data()[0][0]
    result = sc.prune(
        net,
        inputs,
        granularity="element",
        allocation=allocation,
        budget={"sparsity": sparsity},
        **kwargs,
    )
    return result.plan.masks


def lamp_by_hand(values: Tensor) -> Tensor:
    flat = values.detach().double().flatten().square()
    order = flat.argsort(stable=True).tolist()
    scores = torch.zeros_like(flat)
    for at, u in enumerate(order):
        scores[u] = flat[u] / sum(flat[v] for v in order[at:])
    return scores.view_as(values)


@pytest.mark.parametrize("criterion", ["magnitude", "l1"])
def test_lamp_oracle(criterion: str) -> None:
    squared = sc.criteria.as_criterion(criterion).squared
    given = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = LAMP().ranked(given.square() if squared else given, squared)
    np.testing.assert_allclose(found.flatten(), [1 / 30, 4 / 29, 9 / 25, 1], rtol=1e-6)


@pytest.mark.parametrize("criterion", ["magnitude", "l1"])
def test_lamp_ranks_over_all_layers(criterion: str) -> None:
    net = make_net()
    names = ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]
    scores = [lamp_by_hand(net.get_parameter(name)).flatten() for name in names]
    everything = torch.cat(scores)
    zeros = math.floor(0.7 * len(everything))
    gone = torch.zeros(len(everything), dtype=torch.bool)
    gone[everything.argsort(stable=True)[:zeros]] = True
    masks = pruned(net, "lamp", 0.7, criterion=criterion)
    found = torch.cat([~masks[name].flatten() for name in names])
    assert int(found.sum()) == zeros
    assert torch.equal(found, gone)


def test_lamp_does_not_see_the_scale_of_a_layer() -> None:
    net, scaled = make_net(), make_net()
    with torch.no_grad():
        scaled.fc1.weight.mul_(1024.0)
    first, second = pruned(net, "lamp", 0.8), pruned(scaled, "lamp", 0.8)
    assert all(torch.equal(mask, second[name]) for name, mask in first.items())


def test_lamp_empties_no_layer() -> None:
    net = make_net()
    with torch.no_grad():
        net.fc2.weight.mul_(1e-6)
    masks = pruned(net, "lamp", 0.99)
    assert all(bool(mask.any()) for mask in masks.values())


def test_lamp_of_ties_and_of_zeros() -> None:
    found = LAMP().ranked(torch.ones(1, 4), True)
    np.testing.assert_allclose(found[0], [1 / 4, 1 / 3, 1 / 2, 1])
    assert (LAMP().ranked(torch.zeros(2, 2), True) == 0).all()


def test_lamp_of_coupled_channels() -> None:
    groups = [
        GroupScores("a", np.array([1.0, 2.0, 3.0, 4.0])),
        GroupScores("b", np.array([300.0, 400.0])),
    ]
    # 1/30, 4/29, 9/25 and 9/25 of b, whose scale does not matter; then ones.
    assert LAMP().order(groups) == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (0, 3)]


def test_erk_oracle() -> None:
    shares = ERK().sparsities(SHAPES, 0.9)
    assert shares is not None
    np.testing.assert_allclose([1 - s for s in shares], [0.2564, 0.0519, 0.5814], atol=5e-5)
    sizes = [math.prod(shape) for shape in SHAPES]
    assert np.average(shares, weights=sizes) == pytest.approx(0.9)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_erk_meets_the_budget_with_densities_of_at_most_one(sparsity: float) -> None:
    shares = ERK().sparsities(SHAPES, sparsity)
    assert shares is not None and all(0 <= share <= 1 for share in shares)
    sizes = [math.prod(shape) for shape in SHAPES]
    assert np.average(shares, weights=sizes) == pytest.approx(sparsity)


def test_a_layer_that_erk_would_fill_stays_dense() -> None:
    shares = ERK().sparsities([(2, 2), (100, 100)], 0.5)
    assert shares == [0.0, pytest.approx(0.5 * 10004 / 10000)]


def test_uniform_plus_keeps_the_first_and_a_fifth_of_the_last() -> None:
    masks = pruned(make_net(), "uniform+", 0.73)
    assert masks["conv1.weight"].all()
    assert int((~masks["fc2.weight"]).sum()) == 16  # 80 % of 20
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == math.floor(0.73 * total)


def test_uniform_plus_below_the_limit_is_uniform_but_for_the_first() -> None:
    shares = UniformPlus().sparsities(SHAPES, 0.5)
    assert shares is not None and shares[0] == 0.0 and shares[1] == shares[2]


def test_uniform_plus_says_how_far_it_gets() -> None:
    with clear_error(BudgetError, "'uniform\\+'", "at most"):
        UniformPlus().sparsities(SHAPES, 0.97)


def test_uniform_plus_without_a_first_convolution() -> None:
    assert UniformPlus().sparsities([(4, 4), (4, 4)], 0.5) == [0.5, 0.5]


@pytest.mark.parametrize("allocation", ["erk", "uniform", "lamp", "global"])
@pytest.mark.parametrize("sparsity", [0.3, 0.77])
def test_counts_are_exact(allocation: str, sparsity: float) -> None:
    masks = pruned(make_net(), allocation, sparsity)
    total = sum(mask.numel() for mask in masks.values())
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert zeros == math.floor(sparsity * total + 1e-9)


def test_exceptions_of_weights_are_for_sparse_granularities() -> None:
    with clear_error(InputError, "sparse granularities"):
        as_allocation("uniform+").order([GroupScores("a", np.ones(3))])
    with clear_error(InputError, "sparse granularities"):
        sc.prune(make_net(), make_data()[0][0], allocation="uniform+", budget={"macs": 0.7})


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_erk_of_units_keeps_the_shares_of_the_closed_form(share: float) -> None:
    shapes = [[(64, 32, 3, 3)], [(128, 64, 3, 3), (128, 64, 1, 1)], [(200, 128)]]
    sizes = [each[0][0] for each in shapes]
    groups = [
        GroupScores(f"g{at}", np.arange(float(size)), shapes=tuple(each))
        for at, (size, each) in enumerate(zip(sizes, shapes, strict=True))
    ]
    raw = [sum(map(sum, each)) / sum(map(math.prod, each)) for each in shapes]
    gone = round((1 - share) * sum(sizes))
    owners = [owner for owner, _ in as_allocation("erk").order(groups)[:gone]]
    kept = [size - owners.count(at) for at, size in enumerate(sizes)]
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        total = sum(min(1.0, middle * r) * size for r, size in zip(raw, sizes, strict=True))
        low, high = (middle, high) if total < sum(kept) else (low, middle)
    expected = [min(1.0, low * r) * size for r, size in zip(raw, sizes, strict=True)]
    assert np.allclose(kept, expected, atol=1.0)


def test_erk_of_channels_keeps_more_of_small_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 96, 3), nn.ReLU(), nn.Conv2d(96, 32, 3),
        nn.ReLU(), nn.Conv2d(32, 4, 1),
    )  # fmt: skip
    x = torch.randn(1, 3, 12, 12)
    result = sc.prune(model, x, allocation="erk", budget={"macs": 0.4})
    kept = {group.name: group.after / group.before for group in result.groups}
    assert result.after.macs <= 0.4 * result.before.macs
    assert kept["0.weight"] > kept["4.weight"] >= kept["2.weight"]


def test_of_equal_scores_the_lowest_index_goes_first() -> None:
    net = make_net()
    with torch.no_grad():
        net.conv2.weight.fill_(0.5)
    gone = ~pruned(net, "uniform", 0.5, criterion="l1")["conv2.weight"].flatten()
    assert torch.equal(gone, torch.arange(324) < 162)
