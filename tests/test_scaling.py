"""Scaling factors: inserted without a trace, ranked by, and absorbed to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training_nets import X, net
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.errors import NothingToPruneError


def plain() -> nn.Sequential:
    return net(norms=False).eval()


def draw(factors: list[nn.Parameter]) -> list[Tensor]:
    torch.manual_seed(3)
    with torch.no_grad():
        for factor in factors:
            factor.copy_(torch.randn_like(factor))
    return [factor.detach().clone() for factor in factors]


def test_factors_multiply_what_a_filter_computes() -> None:
    model = plain()
    before = model(X)
    reg = sc.regularizer("scaling", model, X)
    assert torch.equal(model(X), before)
    first, second = draw(reg.parameters())
    assert (first.shape, second.shape) == ((8,), (6,))
    dense = plain()
    hidden = F.conv2d(X, dense[0].weight, padding=1) * first.view(-1, 1, 1)
    wanted = F.conv2d(hidden.relu(), dense[3].weight, dense[3].bias, groups=2)
    wanted = dense[4:](wanted * second.view(-1, 1, 1))
    assert torch.allclose(model(X), wanted, atol=1e-5)
    scaled = model(X)
    reg.finish()
    assert torch.equal(model(X), scaled)
    assert list(model.state_dict()) == list(dense.state_dict())
    assert torch.equal(model[0].weight, dense[0].weight * first.view(-1, 1, 1, 1))
    assert torch.equal(model[3].bias, dense[3].bias * second)


def test_the_criterion_ranks_by_them() -> None:
    model = plain()
    reg = sc.regularizer("scaling", model, X)
    first, second = draw(reg.parameters())
    result = sc.prune(model, X, criterion="scale", allocation="uniform", budget={"params": 0.5})
    for factor, dense in zip(reg.parameters(), (first, second), strict=True):
        # A grouped convolution loses the same channel of each of its two groups.
        pairs = dense.reshape(2, -1)
        order = pairs.abs().mean(0).argsort()
        stay = order[(dense.numel() - factor.numel()) // 2 :].sort().values
        assert 0 < len(stay) < len(order)
        assert torch.equal(factor, pairs[:, stay].flatten())
    pruned = model(X)
    reg.finish()
    assert torch.equal(model(X), pruned)
    assert result.after.params <= 0.5 * result.before.params


def test_it_is_saved_and_loaded_under_plain_names(tmp_path: Path) -> None:
    model = plain()
    reg = sc.regularizer("scaling", model, X)
    draw(reg.parameters())
    sc.prune(model, X, criterion="scale", budget={"macs": 0.5})
    reg.finish()
    sc.save(model, tmp_path / "small.safetensors")
    again = sc.load(plain(), tmp_path / "small.safetensors")
    assert torch.equal(again.eval()(X), model(X))


def test_channels_whose_factor_is_zero_can_go_for_nothing() -> None:
    model = plain()
    reg = sc.regularizer("scaling:strength=1,proximal=True", model, X)
    with torch.no_grad():
        reg.parameters()[0].copy_(torch.tensor([0.3, 2.0, -0.2, 1.5, -0.5, 1.1, -0.4, 3.0]))
    reg.after_step(lr=0.5)
    assert [round(s, 4) for s in reg.parameters()[0].tolist()] == [0, 1.5, 0, 1.0, 0, 0.6, 0, 2.5]
    before = model(X)
    sc.prune(model, X, criterion="scale", ignore=["3"], budget={"macs": 0.55})
    assert len(reg.parameters()[0]) == 4
    assert torch.allclose(model(X), before, atol=1e-6)


def test_l1_drives_the_factors_of_useless_channels_down() -> None:
    """A net of which half the hidden channels read noise: their factors fall, the others stay."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(8))
        model[0].bias.zero_()
    reg = sc.regularizer("scaling:strength=0.05,proximal=True", model, torch.zeros(1, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3)
    for _ in range(400):
        x = torch.randn(64, 8)
        optimizer.zero_grad()
        (model(x) - x[:, :4].relu().sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        reg.after_step(0.1)
    factors = reg.parameters()[0].abs()
    assert factors[:4].min() > 0.3 and factors[4:].max() == 0


def test_layers_that_have_a_factor_or_cannot_go_are_left_alone() -> None:
    reg = sc.regularizer("scaling", net(norms=False), X)
    assert dict(reg.skipped) == {"8.weight": "its outputs cannot be removed"}
    with pytest.raises(NothingToPruneError, match="a norm scales its outputs already"):
        sc.regularizer("scaling", net(), X)


class Varied(nn.Module):
    """A transposed, a depthwise and two tied convolutions on one residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 6, 1)
        self.up = nn.ConvTranspose2d(6, 5, 2)
        self.depth = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.one, self.two = nn.Conv2d(5, 5, 1), nn.Conv2d(5, 5, 1)
        self.two.weight = self.one.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(self.up(self.stem(x).relu()).relu()).relu()
        x = x + self.two(self.one(x).relu())
        return self.head(x.mean((2, 3)))


def test_whatever_the_layer_it_is_absorbed() -> None:
    torch.manual_seed(0)
    model = Varied().eval()
    keys = list(model.state_dict())
    before = model(X)
    reg = sc.regularizer("scaling", model, X)
    assert torch.equal(model(X), before)
    draw(reg.parameters())
    scaled = model(X)
    assert not torch.allclose(scaled, before)
    reg.finish()
    assert torch.equal(model(X), scaled)
    assert list(model.state_dict()) == keys
    assert model.two.weight is model.one.weight
