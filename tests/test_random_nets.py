"""Random nets, pruned at random: the smaller one equals the masked one, whatever was grown."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from parity import check_model, randomise
from random_nets import HEADS, STEPS, RandomNet, Step, nets
from secateur.errors import BudgetError, NothingToPruneError

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
RATIOS = st.sampled_from([0.3, 0.5, 0.7, 0.9])
PRODUCERS = (nn.Conv2d, nn.Linear)
ROUNDINGS = st.sampled_from([1, 1, 2, 4])
ALLOCATIONS = st.sampled_from(["uniform", "global"])


def check(
    steps: list[Step], head: int, ratio: float, allocation: str, seed: int, round_to: int = 1
) -> None:
    model = randomise(RandomNet(steps, head, seed), seed).double().eval()
    inputs = torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(seed)).double()
    options = {"unit": ("params", "macs")[seed % 2], "allocation": allocation, "seed": seed}
    try:
        result = check_model(model, inputs, ratio, round_to=round_to, **options)
    except (BudgetError, NothingToPruneError):
        # Narrow layers may have no multiple to go to.
        assert round_to > 1
        return
    layers = {f"{name}.weight": m for name, m in model.named_modules() if type(m) in PRODUCERS}
    members = [member for group in result.groups for member in group.members]
    for name, dims in result.plan.removed.items():
        if name in layers and 0 in dims:
            left = layers[name].weight.shape[0] - len(dims[0])
            # A dimension of several groups that was no multiple can only stay in step.
            in_step = members.count((name, 0)) > 1 and len(dims[0]) % round_to == 0
            assert left % round_to == 0 or in_step, name


@given(nets(6), RATIOS, ALLOCATIONS, st.integers(0, 3), ROUNDINGS)
@settings(SETTINGS, max_examples=60)
def test_random_nets(
    net: tuple[list[Step], int], ratio: float, allocation: str, seed: int, round_to: int
) -> None:
    check(*net, ratio, allocation, seed, round_to)


@pytest.mark.slow
@given(nets(12), RATIOS, ALLOCATIONS, st.integers(0, 9), ROUNDINGS)
@settings(SETTINGS, max_examples=600)
def test_many_deep_random_nets(
    net: tuple[list[Step], int], ratio: float, allocation: str, seed: int, round_to: int
) -> None:
    check(*net, ratio, allocation, seed, round_to)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_each_step_alone(name: str) -> None:
    check([("conv", 6, 0), (name, 1, 1), ("norm", 0, 0), (name, 0, 2)], 0, 0.5, "uniform", 0)


@pytest.mark.parametrize("head", range(len(HEADS)))
def test_each_head_alone(head: int) -> None:
    check([("conv", 4, 0), ("norm", 0, 0)], head, 0.5, "uniform", 0)
