"""Physical removal of what is all-zero: exactly what does nothing goes, and outputs stay."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
from compacting import FIXED, outputs
from secateur.errors import NothingToPruneError

ACTIVATIONS = ["relu", "sigmoid", "tanh", "hardsigmoid", "gelu", "silu", "leaky_relu", "softplus"]


class Chain(nn.Module):
    """Layers in a row, each with an activation behind it."""

    def __init__(self, layers: Sequence[nn.Module], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = getattr(F, self.activation)(layer(x))
        result: Tensor = self.layers[-1](x)
        return result


def idle_units(chain: Chain) -> list[set[int]]:
    """By definition, layer by layer: silent for every input, or read by nobody who matters."""
    weights = [
        layer.weight.detach().double().numpy().reshape(*layer.weight.shape[:2], -1)
        for layer in chain.layers
    ]
    biases = [layer.bias.detach().double() for layer in chain.layers]
    silent: list[set[int]] = []
    for at, weight in enumerate(weights[:-1]):
        given = range(weight.shape[1])
        heard = [k for k in given if at == 0 or k not in silent[at - 1]]
        constant = {j for j in range(len(weight)) if not weight[j, heard].any()}
        at_rest = getattr(F, chain.activation)(biases[at]).numpy()
        silent.append({j for j in constant if at_rest[j] == 0})
    idle: list[set[int]] = [set() for _ in silent]
    matters = set(range(len(weights[-1])))
    for at in range(len(silent) - 1, -1, -1):
        reading = weights[at + 1]
        for j in range(len(weights[at])):
            if j in silent[at] or not reading[sorted(matters), j].any():
                idle[at].add(j)
        matters = set(range(len(weights[at]))) - idle[at]
    return idle


def removed_units(result: sc.Result, layers: int) -> list[set[int]]:
    found = result.plan.removed
    return [set(found.get(f"layers.{at}.weight", {}).get(0, [])) for at in range(layers)]


@settings(FIXED, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    depth=st.integers(1, 3),
    kept=st.sampled_from([0.1, 0.2, 0.35]),
    activation=st.sampled_from(ACTIVATIONS),
    convolve=st.booleans(),
)
def test_exactly_the_units_that_do_nothing_go(
    seed: int, depth: int, kept: float, activation: str, convolve: bool
) -> None:
    torch.manual_seed(seed)
    widths = [3, *torch.randint(4, 10, (depth,)).tolist(), 3]
    layers: list[nn.Module] = [
        nn.Conv1d(a, b, 2, padding=1) if convolve else nn.Linear(a, b)
        for a, b in itertools.pairwise(widths)
    ]
    chain = Chain(layers, activation)
    masks = {}
    for at, layer in enumerate(layers):
        kernels = torch.rand(layer.weight.shape[:2]) < kept  # type: ignore[index]
        spread = kernels.reshape(*kernels.shape, *([1] * (layer.weight.dim() - 2)))  # type: ignore[operator]
        masks[f"layers.{at}.weight"] = spread.expand_as(layer.weight).clone()  # type: ignore[arg-type]
        with torch.no_grad():
            layer.bias *= torch.rand(len(layer.bias)) < 0.5  # type: ignore[arg-type, operator]
    sc.apply_masks(chain, masks)
    idle = idle_units(chain)
    assume(all(len(gone) < width for gone, width in zip(idle, widths[1:-1], strict=True)))
    x = torch.randn(4, 3, 5) if convolve else torch.randn(4, 3)
    before = outputs(chain, x)
    if not any(idle):
        with pytest.raises(NothingToPruneError):
            sc.compact(chain, x)
        return
    result = sc.compact(chain, x)
    assert removed_units(result, depth) == idle
    torch.testing.assert_close(outputs(chain, x), before, rtol=0, atol=1e-5)
    other = 10 * torch.randn_like(x)
    dense = Chain([copy.deepcopy(layer) for layer in layers], activation)
    assert torch.isfinite(outputs(dense, other)).all()


def test_a_constant_other_than_zero_stays() -> None:
    """A filter of zeros says 0.5 behind a sigmoid; what nobody reads goes all the same."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight[1] = 0
        net[0].bias[1] = 0
        net[2].weight[:, 4] = 0
    result = sc.compact(net, torch.randn(3, 4))
    assert result.plan.removed["0.weight"] == {0: [4]}
    assert dict(result.skipped)["0.weight"] == (
        "1 all-zero: something else of it is not zero, and is read"
    )


def test_a_unit_that_no_example_opens_stays() -> None:
    """A bias that keeps a ReLU shut on the examples is no proof; a filter of zeros is."""
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].bias[:] = -50.0
        net[0].weight[2] = 0
    for examples in (torch.randn(3, 4), torch.zeros(3, 4)):
        twin = copy.deepcopy(net)
        assert sc.compact(twin, examples).plan.removed["0.weight"] == {0: [2]}


def test_a_unit_that_hardly_anything_opens_stays() -> None:
    """No noise of ours gets through this norm, and larger numbers would."""
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[1].weight[:] = 1e-8
        net[1].bias[:] = -5.0
        net[0].weight[2] = 0
    result = sc.compact(net, torch.randn(3, 4))
    assert result.plan.removed["0.weight"] == {0: [2]}


def test_a_unit_behind_one_that_hardly_anything_opens_stays() -> None:
    """What it reads is zero on any numbers of a usual size, and so it seems to be constant."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    with torch.no_grad():
        net[1].weight[0], net[1].bias[0] = 1e-8, -5.0
        net[3].weight[[1, 3]] = 0
        net[3].weight[1, 0] = 1
        net[3].bias[:] = 0
    large = 1e10 * torch.eye(4)[:1] * net[0].weight[0, 0].sign()
    before = outputs(net, large)
    assert sc.compact(net, torch.randn(1, 4)).plan.removed["3.weight"] == {0: [3]}
    torch.testing.assert_close(outputs(net, large), before)


def test_units_that_only_read_each_other_go() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.enter, self.out = nn.Linear(6, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.enter(x))
            for _ in range(3):
                h = torch.tanh(self.step(h) + self.enter(x))
            result: Tensor = self.out(h)
            return result

    net = Loop()
    with torch.no_grad():
        net.out.weight[:, [1, 4]] = 0
        net.step.weight[:, [1, 4]] = 0
        net.step.weight[1, 4] = net.step.weight[4, 1] = net.step.weight[4, 4] = 1.0
    x = torch.randn(5, 3)
    before = outputs(net, x)
    result = sc.compact(net, x)
    assert result.plan.removed["step.weight"] == {0: [1, 4], 1: [1, 4]}
    torch.testing.assert_close(outputs(net, x), before)
