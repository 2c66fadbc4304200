"""Physical removal of what is all-zero: exactly what does nothing goes, and outputs stay."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
from parity import assert_same, randomise, snapshot
from random_nets import RandomNet, Step, nets
from secateur.errors import NothingToPruneError

FIXED = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
ACTIVATIONS = ["relu", "sigmoid", "tanh", "hardsigmoid", "gelu", "silu", "leaky_relu", "softplus"]


def outputs(model: nn.Module, *inputs: Tensor) -> Tensor:
    mode = model.training
    with torch.no_grad():
        found: Tensor = model.eval()(*inputs)
    model.train(mode)
    return found


# Against brute force in NumPy ---------------------------------------------------------------------


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


# Granularities and architectures ------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.norm(self.b(F.relu(self.a(x)))))
        result: Tensor = self.out(x)
        return result


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.out = nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(F.relu(torch.cat([self.a(x), self.b(x)], dim=1)))
        return result


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6(),
        nn.Conv2d(16, 4, 1),
    )  # fmt: skip


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 16, 3), nn.ReLU(), nn.Conv1d(16, 16, 3), nn.ReLU(), nn.Conv1d(16, 4, 3)
    )


def conv2d() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip


def conv3d() -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 4, 3))


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )


def linear() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (conv1d, (2, 3, 12)),
    "conv2d": (conv2d, (2, 3, 8, 8)),
    "conv3d": (conv3d, (2, 3, 5, 5, 5)),
    "transposed": (transposed, (2, 3, 6, 6)),
    "linear": (linear, (2, 12)),
    "residual": (Residual, (2, 3, 6, 6)),
    "concat": (Concat, (2, 3, 6, 6)),
    "depthwise": (depthwise, (2, 3, 6, 6)),
}

# Granularity, sparsity, and the nets that it leaves all-zero units in.
SPARSE = {
    "element": (0.9, set(NETS)),
    "kernel": (0.8, set(NETS) - {"linear"}),
    "shape": (0.6, {"conv1d", "conv2d", "conv3d", "residual", "concat"}),
    "stripe": (0.6, set(NETS) - {"linear"}),
    "row": (0.5, set(NETS)),
    "block:4x4": (0.7, {"conv2d", "linear", "residual", "transposed", "conv1d"}),
    "vector:4": (0.9, {"linear", "conv2d", "residual"}),
    "run:4": (0.9, {"linear", "conv2d", "residual"}),
    "pattern": (0.9, {"conv2d", "residual"}),
}  # fmt: skip
CASES = [
    (granularity, net) for granularity, (_, nets) in SPARSE.items() for net in NETS if net in nets
]


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    """A net whose every fourth feature is weak, in what makes it and in what reads it."""
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() > 1:
                weight[::4] *= 1e-3
                weight[:, ::4] *= 1e-3
            else:
                weight[::4] = 0
    return net, torch.randn(shape)


@pytest.mark.parametrize(("granularity", "name"), CASES)
def test_what_a_sparse_granularity_empties_goes(
    granularity: str, name: str, tmp_path: Path
) -> None:
    net, x = prepared(name)
    fresh = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    pruned = sc.prune(
        net,
        x,
        granularity=granularity,
        budget={"sparsity": SPARSE[granularity][0]},
        optimizer=optimizer,
    )
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    masked = copy.deepcopy(net)
    before, params = outputs(net, x), sum(p.numel() for p in net.parameters())
    result = pruned.compact(optimizer=optimizer)

    assert result.plan.removed
    assert sum(p.numel() for p in net.parameters()) == result.after.params < params
    torch.testing.assert_close(outputs(net, x), before, rtol=0, atol=1e-5)
    assert result.after.nonzero <= result.before.nonzero

    # The plan does the same to another copy of the masked model.
    result.plan.apply(masked)
    assert torch.equal(outputs(masked, x), outputs(net, x))

    # What is left is masked as before, and stays so in training.
    zeros = {key: ~mask for key, mask in sc.masks_of(net).items()}
    assert zeros
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    state = net.state_dict()
    for key, gone in zeros.items():
        assert not state[key][gone].any()

    # And it survives a file.
    sc.save(net, tmp_path / "net.safetensors")
    loaded = sc.load(fresh, tmp_path / "net.safetensors")
    assert torch.equal(outputs(loaded, x), outputs(net, x))
    masks = sc.masks_of(loaded)
    assert all(torch.equal(masks[key], ~gone) for key, gone in zeros.items())


@given(nets(6), st.integers(0, 999))
@settings(FIXED, max_examples=60)
def test_random_nets_with_random_zeros_compute_what_they_did(
    net: tuple[list[Step], int], seed: int
) -> None:
    steps, head = net
    model = randomise(RandomNet(steps, head, seed), seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 8, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            for dim in range(min(parameter.dim(), 2)):
                gone = torch.rand(parameter.shape[dim], generator=generator) < 0.3
                parameter.index_fill_(dim, gone.nonzero()[:, 0], 0)
    held, other = snapshot(model), 30 * torch.randn(x.shape, generator=generator).to(x)
    before = [outputs(model, x), outputs(model, other)]
    try:
        sc.compact(model, x)
    except NothingToPruneError:
        assert_same(model, held)
        return
    for examples, wanted in zip((x, other), before, strict=True):
        torch.testing.assert_close(outputs(model, examples), wanted, rtol=1e-6, atol=1e-6)
