"""Norms of any order, scaling factors and the mixed form of FPGM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.hand_graph import WIDE, clear_error, make_net, score
from tests.test_criteria_gradient import elements
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import FPGM, score_classes
from secateur.criteria.fpgm import summed_distances
from secateur.errors import InputError


@pytest.mark.parametrize("p, name", [(1, "l1"), (2, "l2")])
def test_lp_is_the_norm_it_names(p: int, name: str) -> None:
    np.testing.assert_allclose(score(f"lp:p={p}").values, score(name).values, rtol=1e-5)


@pytest.mark.parametrize("p", [0.5, 3, 7.5])
def test_lp_against_torch(p: float) -> None:
    net = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    graph = sc.trace(net, torch.zeros(1, 7).double())
    values = score_classes(graph, net, f"lp:p={p},view=producer").values
    expected = net[0].weight.detach().norm(p, dim=1)
    np.testing.assert_allclose(values[graph.groups[0].classes], expected, rtol=1e-9)


def test_lp_of_single_weights_is_the_order_of_magnitude() -> None:
    net = make_net()
    found = elements(net, "lp:p=3")["conv1.weight"].flatten()
    assert torch.equal(found.argsort(), net.conv1.weight.abs().flatten().argsort())


@pytest.mark.parametrize("p", ["0", "-1", "inf", "none", "two"])
def test_lp_of_no_order(p: str) -> None:
    with clear_error(InputError, "'lp'", "positive and finite"):
        sc.criteria.as_criterion(f"lp:p={p}" if p != "inf" else "lp:p=1e999")


def test_scale_of_batch_norms_is_that_of_bn_scale() -> None:
    np.testing.assert_allclose(score("scale").values, score("bn_scale").values)


class Scaled(nn.Module):
    """A norm, a factor of one's own, a bias-like vector and a slope that is no scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.norm = nn.GroupNorm(1, 6)
        self.gamma = nn.Parameter(torch.randn(6, 1, 1))
        self.shift = nn.Parameter(torch.randn(6, 1, 1))
        self.act = nn.PReLU(6)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.norm(self.first(x)) * self.gamma + self.shift))


def test_scale_takes_what_multiplies() -> None:
    torch.manual_seed(0)
    net = Scaled()
    with torch.no_grad():
        net.norm.weight.normal_()
        net.act.weight.fill_(100.0)
    graph = sc.trace(net, torch.zeros(1, 3, 4, 4))
    found = [(m.name, m.dim) for m in graph.members]
    assert ("gamma", 0) in found
    scores = score_classes(graph, net, "scale")
    expected = (net.gamma.flatten().abs() + net.norm.weight.abs()).detach() / 2
    (classes,) = {tuple(m.classes.tolist()) for m in graph.members if m.name == "gamma"}
    np.testing.assert_allclose(scores.values[list(classes)], expected, rtol=1e-6)


def test_scale_lists_what_has_none() -> None:
    scores = score("scale")
    assert scores.judged[:WIDE].all() and not scores.judged[WIDE:].any()
    assert "scaling factor" in scores.reason


def test_fpgm_mix_takes_small_norms_first() -> None:
    torch.manual_seed(0)
    rows = torch.randn(10, 7) * torch.linspace(1, 3, 10)[:, None].flip(0)
    scores = FPGM(mix=0.2).member_scores(None, rows, None, "conv")  # type: ignore[arg-type]
    assert scores is not None
    small = rows.norm(dim=1).argsort()[:2]
    assert torch.equal(scores.argsort()[:2], small)
    others = torch.tensor([at for at in range(10) if at not in small.tolist()])
    expected = torch.cdist(rows[others], rows[others]).sum(dim=1)
    assert torch.allclose(scores[others], expected, rtol=1e-4)


def test_fpgm_without_mix_is_plain() -> None:
    rows = torch.randn(9, 4)
    found = FPGM(mix=0.05).member_scores(None, rows, None, "conv")  # type: ignore[arg-type]
    assert found is not None and torch.allclose(found, summed_distances(rows))
    with clear_error(InputError, "mix"):
        FPGM(mix=1.0)
