"""Compaction after every sparse granularity, over kinds of layers and nets at random."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
from compacting import FIXED, conv2d, outputs
from parity import assert_same, randomise, snapshot
from random_nets import RandomNet, Step, nets
from secateur.errors import NothingToPruneError


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
