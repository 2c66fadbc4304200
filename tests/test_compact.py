"""Physical removal of what is all-zero: exactly what does nothing goes, and outputs stay."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import secateur as sc
from parity import assert_same, randomise, snapshot
from random_nets import RandomNet, Step, nets
from secateur.errors import InputError, NothingToPruneError

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


# Against brute force in NumPy -------------------------------------------------------------------


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


# Granularities and architectures ----------------------------------------------------------------


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

# Granularity, sparsity, and the nets that it has nothing to choose in.
FLAT = {"conv1d", "conv3d", "linear"}
SPARSE: dict[str, tuple[float, set[str]]] = {
    "element": (0.9, set()),
    "kernel": (0.8, {"linear"}),
    "shape": (0.6, set()),
    "stripe": (0.6, {"linear"}),
    "row": (0.5, {"linear"}),
    "block:4x4": (0.7, set()),
    "vector:4": (0.9, set()),
    "run:4": (0.9, set()),
    "pattern": (0.9, FLAT),
}
CASES = [
    (granularity, net)
    for granularity, (_, out_of_reach) in SPARSE.items()
    for net in NETS
    if net not in out_of_reach
]


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    """A net a quarter of whose features is weak, in what makes it and in what reads it."""
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() > 1:
                weight[: len(weight) // 4] *= 1e-3
                weight[:, : weight.shape[1] // 4] *= 1e-3
            else:
                weight[: len(weight) // 4] = 0
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


# What is between the zeros and the outputs ------------------------------------------------------


def test_batch_norm_decides_whether_a_filter_of_zeros_is_silent() -> None:
    def build(shift: float, mean: float, scale: float) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)
        )
        randomise(net)
        with torch.no_grad():
            net[0].weight[2] = 0
            net[1].bias[2], net[1].running_mean[2], net[1].weight[2] = shift, mean, scale
        return net

    x = torch.randn(2, 3, 8, 8)
    # (shift, running mean, scale) -> whether relu((0 - mean) * scale / std + shift) is zero.
    cases = {
        (0.0, 0.0, 1.0): True,
        (0.0, 0.5, 1.0): True,
        (0.0, -0.5, 1.0): False,
        (0.0, -0.5, 0.0): True,
        (-0.1, 0.0, 1.0): True,
        (0.1, 0.0, 1.0): False,
        (0.1, 0.0, 0.0): False,
    }
    for (shift, mean, scale), silent in cases.items():
        net = build(shift, mean, scale)
        before = outputs(net, x)
        if silent:
            assert sc.compact(net, x).plan.removed["0.weight"] == {0: [2]}, (shift, mean, scale)
            torch.testing.assert_close(outputs(net, x), before)
        else:
            with pytest.raises(NothingToPruneError, match=r"0.weight: 1 all-zero: something else"):
                sc.compact(net, x)


def test_a_scale_of_zero_silences_a_channel_whose_filter_is_not() -> None:
    net = randomise(nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)
    ))  # fmt: skip
    with torch.no_grad():
        net[1].weight[[1, 3]] = 0
        net[1].bias[1], net[1].bias[3] = 0, 1
    x = torch.randn(2, 3, 8, 8)
    before = outputs(net, x)
    assert sc.compact(net, x).plan.removed["0.weight"] == {0: [1]}
    torch.testing.assert_close(outputs(net, x), before)


def test_a_gate_of_zeros_silences_what_it_multiplies() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value, self.gate, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.out(self.value(x) * F.silu(self.gate(x)))
            return result

    net, x = Gated(), torch.randn(3, 4)
    with torch.no_grad():
        net.gate.weight[[0, 3]] = 0
        net.gate.bias[0], net.gate.bias[3] = 0, 1
    before = outputs(net, x)
    assert sc.compact(net, x).plan.removed["value.weight"] == {0: [0]}
    torch.testing.assert_close(outputs(net, x), before)


def test_features_of_a_layer_norm_stay_and_hidden_ones_go() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 4, dim_feedforward=32, batch_first=True)
    net = nn.Sequential(nn.Linear(5, 16), randomise(block), nn.Linear(16, 3))
    with torch.no_grad():
        block.linear1.weight[[3, 7]] = 0
        block.linear1.bias[[3, 7]] = 0
        block.linear2.weight[:, 20] = 0
        for name in ("linear2", "self_attn.out_proj"):
            block.get_submodule(name).weight[4] = 0
            block.get_submodule(name).bias[4] = 0
        net[0].weight[4] = 0
        net[0].bias[4] = 0
    x = torch.randn(2, 6, 5)
    before = outputs(net, x)
    result = sc.compact(net, x)
    assert {name for name, dims in result.plan.removed.items() if dims} == {
        "1.linear1.weight", "1.linear1.bias", "1.linear2.weight"
    }  # fmt: skip
    assert result.plan.removed["1.linear1.weight"] == {0: [3, 7, 20]}
    torch.testing.assert_close(outputs(net, x), before)
    assert dict(result.skipped)["0.weight"] == (
        "1 all-zero: native_layer_norm in 1.norm1 mixes it with others, and a zero counts there"
    )


def test_a_gated_linear_unit_and_a_quotient_are_silent_where_their_values_are() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.top, self.below = nn.Linear(4, 12), nn.Linear(6, 6), nn.Linear(4, 6)
            self.out = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.top(F.glu(self.both(x))) / self.below(x).exp()
            result: Tensor = self.out(h)
            return result

    torch.manual_seed(0)
    net, x = randomise(Gated()), torch.randn(3, 4)
    with torch.no_grad():
        net.both.weight[2] = 0
        net.both.bias[2] = 0
        net.top.weight[4] = 0
        net.top.bias[4] = 0
    before = outputs(net, x)
    removed = sc.compact(net, x).plan.removed
    assert removed["both.weight"] == {0: [2, 8]}
    assert removed["top.weight"] == {0: [4], 1: [2]}
    assert removed["below.weight"] == {0: [4]}
    torch.testing.assert_close(outputs(net, x), before)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.GroupNorm])
def test_a_norm_whose_scale_and_shift_are_zero_silences_what_reads_it(norm: type) -> None:
    """The features of a norm stay, and what only reads their zeros goes."""
    torch.manual_seed(0)
    normed = norm(6) if norm is nn.LayerNorm else norm(2, 6)
    net = nn.Sequential(nn.Linear(4, 6), randomise(normed), nn.Linear(6, 5), nn.ReLU(),
                        nn.Linear(5, 2))  # fmt: skip
    with torch.no_grad():
        normed.weight[[1, 2]] = 0
        normed.bias[[1, 2]] = torch.tensor([0.0, 1.0])
        net[2].weight[3:] = 0
        net[2].weight[3, 1] = 1
        net[2].weight[4, 2] = 1
        net[2].bias[:] = 0
    x = torch.randn(3, 4)
    before = outputs(net, x)
    assert sc.compact(net, x).plan.removed["2.weight"] == {0: [3]}
    torch.testing.assert_close(outputs(net, x), before)


class Attends(nn.Module):
    """Four heads of four features each, by default."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(6, 16)
        self.out = nn.Linear(16, 3)
        self.width = 4

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).view(*x.shape[:2], 4, self.width).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: Tensor = self.out(heads)
        return result


def test_heads_get_narrower_by_what_is_zero_in_each_of_them() -> None:
    torch.manual_seed(0)
    net, x = randomise(Attends()), torch.randn(2, 5, 6)
    places = [1, 6, 8, 15]  # one of each head
    with torch.no_grad():
        net.q.weight[places] = 0
        net.q.bias[places] = 0
        net.out.weight[:, places] = 0
    before = outputs(net, x)
    result = sc.compact(net, x)
    for name in "qkv":
        assert result.plan.removed[f"{name}.weight"] == {0: places}
    torch.testing.assert_close(outputs(net, x), before, rtol=0, atol=1e-5)


def test_attention_is_silent_where_its_values_are() -> None:
    torch.manual_seed(0)
    net, x = randomise(Attends()), torch.randn(2, 5, 6)
    places = [1, 6, 8, 15]
    with torch.no_grad():
        for part in (net.q, net.v):
            part.weight[places] = 0
            part.bias[places] = 0
    before = outputs(net, x)
    result = sc.compact(net, x)
    for name in "qkv":
        assert result.plan.removed[f"{name}.weight"] == {0: places}
    torch.testing.assert_close(outputs(net, x), before, rtol=0, atol=1e-5)


def test_heads_stay_a_rectangle() -> None:
    torch.manual_seed(0)
    net, x = Attends(), torch.randn(2, 5, 6)
    with torch.no_grad():
        net.out.weight[:, [3, 5]] = 0
    with pytest.raises(NothingToPruneError, match="2 all-zero: sizes must keep it"):
        sc.compact(net, x)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_units(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = kind(4, 8, num_layers=2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.out(self.rnn(x)[0])
            return result

    net, x = Recurrent(), torch.randn(3, 7, 4)
    with torch.no_grad():
        for parameter in net.rnn.parameters():
            parameter += 0.1
        # Unit 2 of the first layer says nothing; nobody reads that of the second but itself.
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            rows = getattr(net.rnn, name)
            rows.view(-1, 8, *rows.shape[1:])[:, 2] = 0
        net.rnn.weight_hh_l1[:, 2] = 0
        net.rnn.weight_hh_l1.view(-1, 8, 8)[:, 2, 2] = 1.0
        net.out.weight[:, 2] = 0
        # Unit 5 of the first layer is read by the second, and units 6 by their own layers.
        net.rnn.weight_hh_l1[:, 5] = 0
        net.rnn.weight_ih_l1[:, 6] = 0
        net.out.weight[:, [5, 6]] = 0
    before = outputs(net, x)
    result = sc.compact(net, x)
    assert net.rnn.hidden_size == 7
    gates = len(net.rnn.weight_hh_l0) // 7
    for layer in ("weight_hh_l0", "weight_hh_l1"):
        rows = [2 + 8 * gate for gate in range(gates)]
        assert result.plan.removed[f"rnn.{layer}"] == {0: rows, 1: [2]}
    torch.testing.assert_close(outputs(net, x), before)


def test_embeddings_lose_columns_that_no_token_fills() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 3))
    tokens = torch.tensor([[1, 2], [3, 1]])
    with torch.no_grad():
        net[0].weight[:, 6] = 0
        net[0].weight[1:4, 2] = 0  # only for the tokens of the example
    every = torch.arange(10)[None]
    before = outputs(net, every)
    assert sc.compact(net, tokens).plan.removed["0.weight"] == {1: [6]}
    torch.testing.assert_close(outputs(net, every), before)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_weights_that_are_computed(norm: Callable[..., nn.Module]) -> None:
    """What counts is what the layer computes with; a norm that reads the rest keeps it."""
    torch.manual_seed(0)
    net = nn.Sequential(norm(nn.Linear(6, 12)), nn.ReLU(), norm(nn.Linear(12, 3)))
    for _ in range(30):
        net(torch.randn(2, 6))
    masks = {"0.weight": torch.ones(12, 6, dtype=torch.bool)}
    masks["0.weight"][[2, 9]] = False
    with torch.no_grad():
        net[0].bias.zero_()
    sc.apply_masks(net, masks)
    x = torch.randn(5, 6)
    before = outputs(net, x)
    if norm is parametrizations.spectral_norm:
        # The largest singular value is that of the dense weight.
        with pytest.raises(NothingToPruneError):
            sc.compact(net, x)
    else:
        # Rows have norms of their own; but the next layer's rows are normed over what is read.
        with pytest.raises(NothingToPruneError):
            sc.compact(net, x)
        assert_same(net, snapshot(net))
        with torch.no_grad():
            net[2].parametrizations.weight.original1[:, [2, 9]] = 0
        before = outputs(net, x)
        assert sc.compact(net, x).plan.removed["0.bias"] == {0: [2, 9]}
        assert net[0].weight.shape == (10, 6)
    torch.testing.assert_close(outputs(net, x), before)


def test_what_only_training_reads_counts() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out, self.aux = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Any:
            h = F.relu(self.body(x))
            return (self.out(h), self.aux(h)) if self.training else self.out(h)

    net = Auxiliary()
    with torch.no_grad():
        net.out.weight[:, [1, 5]] = 0
        net.aux.weight[:, 5] = 0
    assert sc.compact(net, torch.randn(3, 4)).plan.removed["body.weight"] == {0: [5]}


# Options, and what is left of the model ---------------------------------------------------------


def idle_net() -> nn.Module:
    """Of whose twelve hidden units nothing reads seven."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        net[2].weight[:, 2:9] = 0
    return net


@pytest.mark.parametrize(
    ("options", "left"),
    [({}, 5), ({"round_to": 4}, 8), ({"round_to": 8}, 8), ({"min_keep": 7}, 7)],
)
def test_sizes(options: dict[str, int], left: int) -> None:
    net, x = idle_net(), torch.randn(3, 4)
    before = outputs(net, x)
    result = sc.compact(net, x, **options)
    assert net[0].out_features == left
    torch.testing.assert_close(outputs(net, x), before)
    reasons = dict(result.skipped)
    if left == 5:
        assert "0.weight" not in reasons
    else:
        assert reasons["0.weight"].startswith(f"{left - 5} all-zero: sizes must keep it")


def test_a_unit_that_has_to_stay_keeps_what_it_reads() -> None:
    """A layer that nobody reads keeps one unit; what that one reads stays, too."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        net[4].weight.zero_()
        net[2].weight[4] = torch.tensor([0.0, 1, 0, 1, 0, 0])
    x = torch.randn(3, 4)
    result = sc.compact(net, x)
    assert result.plan.removed["2.weight"] == {0: [0, 1, 2, 3], 1: [0, 2, 4, 5]}


def test_optimizer_average_and_gradients_follow() -> None:
    net, x = idle_net(), torch.randn(3, 4)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        net[2].weight[:, 2:9] = 0
    average = torch.optim.swa_utils.AveragedModel(net).module
    moments = optimizer.state[net[0].weight]["exp_avg"].clone()
    stay = [0, 1, 9, 10, 11]
    sc.compact(net, x, optimizer=optimizer, ema=average)
    assert torch.equal(optimizer.state[net[0].weight]["exp_avg"], moments[stay])
    assert average[0].out_features == 5
    assert torch.equal(outputs(average, x), outputs(net, x))
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def test_nothing_to_remove_is_an_error_that_says_why() -> None:
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2)), torch.randn(3, 4)
    held = snapshot(net)
    with pytest.raises(NothingToPruneError, match="no unit of the model is all-zero"):
        sc.compact(net, x)
    assert_same(net, held)
    with torch.no_grad():
        net[0].weight[[1, 2]] = 0
    held = snapshot(net)
    with pytest.raises(
        NothingToPruneError,
        match=r"none of 2 all-zero units may go \(0.weight: 2 all-zero: something",
    ):
        sc.compact(net, x)
    assert_same(net, held)
    with pytest.raises(NothingToPruneError, match="ignore"):
        sc.compact(idle_net(), x, ignore=["0"])
    with pytest.raises(InputError, match="round_to"):
        sc.compact(idle_net(), x, round_to=0)
    with pytest.raises(InputError, match="rejects the example inputs"):
        sc.compact(idle_net(), torch.randn(3, 5))


def test_half_precision() -> None:
    net, x = idle_net().bfloat16(), torch.randn(3, 4).bfloat16()
    before = outputs(net, x)
    sc.compact(net, x)
    assert net[0].out_features == 5
    torch.testing.assert_close(outputs(net, x), before)


def test_code_that_cannot_run_on_noise_is_judged_by_its_weights() -> None:
    class Checks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            if bool((x < 0).any()):
                raise ValueError("images are not negative")
            result: Tensor = self.out(F.relu(self.body(x)))
            return result

    net = Checks()
    with torch.no_grad():
        net.out.weight[:, 3] = 0
        net.body.weight[5] = 0
        net.body.bias[5] = 0
    assert sc.compact(net, torch.rand(3, 4)).plan.removed["body.weight"] == {0: [3]}


@pytest.mark.parametrize(
    ("decides", "mixes"),
    [
        (lambda h: torch.where(h > 0, h, 0.0), None),
        (lambda h: h * (h >= 0), None),
        (lambda h: h.nan_to_num(), None),
        (lambda h: h.round().long().float(), None),
        (lambda h: h.topk(8).values + h, "its positions become values"),
        (lambda h: h if bool((h == h).all()) else h[:, :0], "all mixes it with others"),
    ],
    ids=["where", "mask", "nan_to_num", "integers", "order", "branch"],
)
def test_code_that_decides_by_its_numbers(
    decides: Callable[[Tensor], Tensor], mixes: str | None
) -> None:
    """Nothing but numbers can stand for any number there; what compares all units keeps them."""

    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.out(decides(self.body(x)))
            return result

    torch.manual_seed(0)
    net, x = Decides(), torch.randn(3, 4)
    with torch.no_grad():
        net.body.weight[5] = 0
        net.body.bias[5] = 0
    before = outputs(net, x)
    if mixes is None:
        assert sc.compact(net, x).plan.removed["body.weight"] == {0: [5]}
    else:
        with pytest.raises(NothingToPruneError, match=f"none of 1 all-zero.*{mixes}"):
            sc.compact(net, x)
    torch.testing.assert_close(outputs(net, x), before)


def test_other_operations_each_time_are_an_error_that_says_what_helps() -> None:
    class Wavers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out, self.turn = nn.Linear(4, 8), nn.Linear(8, 2), iter(range(99))

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.body(x))
            for _ in range(next(self.turn)):
                h = torch.tanh(h)
            result: Tensor = self.out(h)
            return result

    for verify in (True, False):
        with pytest.raises(InputError, match=r"make its forward pass deterministic$"):
            sc.compact(Wavers(), torch.randn(3, 4), verify=verify)


def test_only_units_that_could_go_are_counted() -> None:
    """Of a model's inputs and outputs none could."""
    net, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(3, 4)
    with torch.no_grad():
        net[0].weight[:, 1] = 0
        net[2].weight[[0, 2]] = 0
    with pytest.raises(NothingToPruneError, match="no unit of the model is all-zero"):
        sc.compact(net, x)
    with torch.no_grad():
        net[0].weight[[2, 4]] = 0
        net[0].bias[:] = 1
    with pytest.raises(NothingToPruneError, match="none of 2 all-zero units may go"):
        sc.compact(net, x)


def test_how_often_the_model_runs_does_not_grow_with_what_goes() -> None:
    """Once more than for pruning on marks for any number, and twice to compare on noise."""
    runs = 0

    def count(module: nn.Module, given: Any) -> None:
        nonlocal runs
        runs += 1

    counts = []
    for zeros in (1, 4, 24):
        torch.manual_seed(0)
        net, x = conv2d(), torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            for at in range(zeros):
                layer = net[3] if at % 2 else net[0]
                layer.weight[at // 2] = 0
                layer.bias[at // 2] = 0
        twin = copy.deepcopy(net)
        for each, act in ((twin, sc.prune), (net, sc.compact)):
            handle = each.register_forward_pre_hook(count)
            runs = 0
            act(each, x)
            counts.append(runs)
            handle.remove()
    assert counts[::2] == [counts[0]] * 3
    assert counts[1::2] == [counts[0] + 3] * 3
