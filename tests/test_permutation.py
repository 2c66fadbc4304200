"""Channel permutations: the model computes what it did, and N:M keeps more of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
from secateur.errors import InputError
from secateur.sparsity import nm_mask
from secateur.sparsity.permutation import best_order, ideal, retained


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.deep = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.outer = nn.Conv2d(24, 16, 1)
        self.side = nn.Conv2d(16, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.last = nn.Conv2d(8, 8, 1)
        self.out = nn.Linear(8 * 25, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(self.deep(self.inner(x).relu()))
        return self.out(self.last(self.up(self.side(x)).relu()).flatten(1))


def jittered(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
    return model.eval()


NETS = {
    "residual": (Residual, (2, 3, 4, 4)),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 12)), (3, 6)),
    "flattened": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4)
        ),
        (2, 3, 6, 6),
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 8, 1)
        ),
        (2, 3, 5, 5),
    ),
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("numbers", [(2, 4), (1, 4), (4, 8)])
def test_the_model_computes_what_it_did(kind: str, numbers: tuple[int, int]) -> None:
    torch.manual_seed(0)
    build, shape = NETS[kind]
    model, x = jittered(build()), torch.randn(shape)
    before = model(x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    result = sc.permute_for_nm(model, x, *numbers)
    assert torch.allclose(model(x), before, atol=1e-5)
    for layer in result.layers:
        assert layer.permuted <= layer.ideal * (1 + 1e-6) and layer.efficacy <= 1 + 1e-6
        # Two layers share the residual stream; they gain together.
        if layer.name not in ("inner.weight", "side.weight"):
            assert layer.default <= layer.permuted
        # What it says is what the model holds.
        weight = model.get_parameter(layer.name).detach()
        if layer.name != "up.weight":
            kept = (weight.abs() * nm_mask(weight.abs(), *numbers)).sum()
            assert float(kept) == pytest.approx(layer.permuted, rel=1e-5)
    assert sum(x.permuted for x in result.layers) >= sum(x.default for x in result.layers)
    assert all(reason for _, reason in result.skipped)
    if kind == "grouped":
        assert any("grouped" in reason for _, reason in result.skipped)
    elif numbers == (2, 4):
        assert any(layer.efficacy > 0.05 for layer in result.layers)
        assert any(not torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_it_is_deterministic() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = jittered(Residual())
        sc.permute_for_nm(model, torch.randn(1, 3, 4, 4), seed=5)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


class Ordered(nn.Module):
    """Code that treats channels by their place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x * torch.arange(16.0))


def test_where_the_order_matters_it_stays() -> None:
    torch.manual_seed(0)
    model, x = Ordered(), torch.randn(2, 4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = sc.permute_for_nm(model, x)
    assert result.layers == [] and result.skipped
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@given(st.integers(0, 2**31), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_two_runs_are_parted_in_the_best_way(seed: int, rows: int) -> None:
    matrix = torch.from_numpy(np.random.default_rng(seed).random((rows, 8)).astype(np.float32))
    found = retained(matrix[:, best_order(matrix, 2, 4, 10, 0)], 2, 4)
    best = max(
        retained(matrix[:, [*half, *(i for i in range(8) if i not in half)]], 2, 4)
        for half in itertools.combinations(range(8), 4)
    )
    assert found == pytest.approx(best, rel=1e-5)
    assert retained(matrix, 2, 4) <= found <= ideal(matrix, 2, 4) * (1 + 1e-6)


def test_gradients_follow() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8)), torch.randn(2, 4)
    model(x).square().sum().backward()
    first = model[0].weight.grad.clone()
    sc.permute_for_nm(model, x)
    held = model[0].weight.grad.clone()
    model.zero_grad()
    model(x).square().sum().backward()
    assert torch.allclose(held, model[0].weight.grad, atol=1e-5)
    assert not torch.allclose(held, first)


def test_numbers_that_mean_nothing() -> None:
    with pytest.raises(InputError, match="must keep"):
        sc.permute_for_nm(nn.Linear(4, 4), torch.randn(1, 4), 4, 4)
