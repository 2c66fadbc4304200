"""Peak activations and energy against sums written out by hand, and as budgets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.costs import CostModel

FLOAT = 4
DRAM = 1300 / 8
MULTIPLY, ADD = 3.7, 0.9
EXTRA = ("activations", "energy")


def dense(net: nn.Module, x: Tensor) -> dict[str, float]:
    return CostModel(sc.trace(net, x), net, measures=EXTRA).dense


class Residual(nn.Module):
    def __init__(self, inner: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, inner, 3, padding=1, bias=False)
        self.second = nn.Conv2d(inner, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def residual_by_hand(inner: int, pixels: int) -> dict[str, float]:
    outer, hidden = 4 * pixels * FLOAT, inner * pixels * FLOAT
    weights = 2 * 4 * inner * 9
    # Read and written by: first, relu, second, add.
    moved = (outer + hidden) + 2 * hidden + (hidden + outer) + 3 * outer + weights * FLOAT
    return {
        # The input, what relu reads, and what it writes; or, where narrow, the three of the sum.
        "activations": max(outer + 2 * hidden, 3 * outer),
        "energy": weights * pixels * (MULTIPLY + ADD) + moved * DRAM,
    }


@pytest.mark.parametrize("inner", [1, 2, 4, 8, 11])
def test_a_residual_block(inner: int) -> None:
    cost = dense(Residual(inner), torch.zeros(1, 4, 5, 5))
    assert {key: cost[key] for key in EXTRA} == pytest.approx(residual_by_hand(inner, 25))


def test_views_hold_and_move_nothing() -> None:
    class Viewed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.transpose(1, 2).unsqueeze(0).squeeze(0))

    cost = dense(Viewed(), torch.zeros(2, 3, 5))
    assert cost["activations"] == 2 * 30 * FLOAT
    assert cost["energy"] == pytest.approx(2 * 30 * FLOAT * DRAM)


def test_a_view_keeps_what_it_looks_at() -> None:
    class Kept(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            wide = x.exp()
            return wide[:, :1], wide.sum(1).exp().exp()

    # The input and all of `wide` stay; two sums of one column are there at a time.
    assert dense(Kept(), torch.zeros(2, 10))["activations"] == (20 + 20 + 2 + 2) * FLOAT


def test_in_place_operations_need_no_second_piece() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    assert dense(net, torch.zeros(3, 2))["activations"] == (6 + 24 + 6) * FLOAT


def test_half_precision_counts_its_own_width_and_energy() -> None:
    cost = dense(nn.Linear(8, 4, bias=False).half(), torch.zeros(2, 8).half())
    assert cost["activations"] == (16 + 8) * 2
    assert cost["energy"] == pytest.approx(64 * (1.1 + 0.4) + (16 + 32 + 8) * 2 * DRAM)


@pytest.mark.parametrize("measure", EXTRA)
@pytest.mark.parametrize("fraction", [0.4, 0.75])
def test_budgets_are_met_by_what_is_left(measure: str, fraction: float) -> None:
    torch.manual_seed(0)
    net, x = Residual(16), torch.randn(1, 4, 6, 6)
    result = sc.prune(net, x, budget={measure: fraction})
    before, after = result.costs[measure]
    assert (before, after) == pytest.approx(
        (residual_by_hand(16, 36)[measure], residual_by_hand(net.first.out_channels, 36)[measure])
    )
    assert dense(net, x)[measure] == pytest.approx(after)
    assert after <= fraction * before
    # One channel more would have been too much.
    assert residual_by_hand(net.first.out_channels + 1, 36)[measure] > fraction * before


def test_steps_count_from_the_first_model() -> None:
    torch.manual_seed(0)
    net, x = Residual(16), torch.randn(1, 4, 6, 6)
    whole = dense(net, x)["energy"]
    *_, last = sc.Pruner(net, x, steps=3, budget={"energy": 0.5})
    assert 0.4 * whole < last.costs["energy"][1] <= 0.5 * whole


@pytest.mark.parametrize("measure", EXTRA)
def test_zeros_save_neither(measure: str) -> None:
    with pytest.raises(sc.errors.BudgetError, match=f"zeros save no {measure}"):
        sc.prune(Residual(), torch.zeros(1, 4, 5, 5), granularity="2:4", budget={measure: 0.5})
