"""Criteria on activations against hooks and autograd, and where they measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.hand_graph import OPEN, WIDE, clear_error, make_data, make_net, score
from tests.test_criteria_gradient import elements
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.criteria import score_classes
from secateur.errors import CriterionError, InputError

FAMILY = ["apoz", "mean_activation", "hrank", "taylor_activation"]


def streams(net: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The residual stream behind both activations, and the hidden layer, of the shared net."""
    first = torch.relu(net.bn1(net.conv1(inputs)))
    second = torch.relu(first + net.bn2(net.conv2(first)))
    pooled = functional.adaptive_avg_pool2d(second, 2).flatten(1)
    return first, second, torch.relu(net.fc1(pooled))


def by_hand(measure: Any) -> tuple[np.ndarray, np.ndarray]:
    net = make_net(dtype=torch.float64).eval()
    with torch.no_grad():
        parts = [streams(net, x) for x, _ in make_data(dtype=torch.float64)]
    first, second, hidden = (torch.cat(each) for each in zip(*parts, strict=True))
    return ((measure(first) + measure(second)) / 2).numpy(), measure(hidden).numpy()


def others(values: Tensor) -> list[int]:
    return [dim for dim in range(values.ndim) if dim != 1]


@pytest.mark.parametrize(
    "criterion, measure",
    [
        ("apoz", lambda a: (a != 0).double().mean(dim=others(a))),
        ("apoz:epsilon=0.3", lambda a: (a.abs() > 0.3).double().mean(dim=others(a))),
        ("mean_activation", lambda a: a.abs().mean(dim=others(a))),
    ],
)
def test_against_brute_force(criterion: str, measure: Any) -> None:
    wide, hidden = by_hand(measure)
    values = score(criterion, make_net(dtype=torch.float64)).values
    np.testing.assert_allclose(values[:WIDE], wide, rtol=1e-9)
    np.testing.assert_allclose(values[WIDE:OPEN], hidden, rtol=1e-9)


def test_hrank_is_the_mean_rank_of_maps() -> None:
    net = make_net(dtype=torch.float64).eval()
    total = np.zeros(WIDE)
    for inputs, _ in make_data(dtype=torch.float64):
        with torch.no_grad():
            for values in streams(net, inputs)[:2]:
                for sample in values.numpy():
                    total += [np.linalg.matrix_rank(one) for one in sample]
    scores = score("hrank", make_net(dtype=torch.float64))
    np.testing.assert_allclose(scores.values[:WIDE], total / 20)
    assert not scores.judged[WIDE:].any() and "feature maps" in scores.reason


@pytest.mark.parametrize("absolute", ["data", "sample"])
def test_taylor_is_the_slope_of_a_gate(absolute: str) -> None:
    net = make_net(dtype=torch.float64).eval()
    total, count = torch.zeros(5, dtype=torch.float64), 0
    for inputs, targets in make_data(dtype=torch.float64):
        hidden = streams(net, inputs)[2].detach()
        gate = torch.ones_like(hidden, requires_grad=True)
        each = functional.cross_entropy(net.fc2(hidden * gate), targets, reduction="none")
        (slope,) = torch.autograd.grad(each.sum(), gate)
        slope = slope.abs() if absolute == "sample" else slope
        total, count = total + slope.sum(dim=0), count + len(hidden)
    expected = total.abs() / count
    criterion = f"taylor_activation:absolute={absolute}"
    found = score(criterion, make_net(dtype=torch.float64)).values[WIDE:OPEN]
    np.testing.assert_allclose(found, expected / expected.norm(), rtol=1e-9)


@pytest.mark.parametrize("absolute", ["data", "sample"])
def test_taylor_of_maps_takes_the_mean_over_places(absolute: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(96, 4))
    inputs, targets = make_data()[0]
    graph = sc.trace(net, inputs)
    hidden = torch.relu(net[0](inputs)).detach()
    gate = torch.ones(5, 6, 1, 1, requires_grad=True)
    each = functional.cross_entropy(net[3]((hidden * gate).flatten(1)), targets, reduction="none")
    (slope,) = torch.autograd.grad(each.sum(), gate)
    slope = slope.flatten(1)
    expected = slope.abs().mean(dim=0) if absolute == "sample" else slope.mean(dim=0).abs()
    criterion = f"taylor_activation:absolute={absolute}"
    scores = score_classes(graph, net, criterion, data=[(inputs, targets)])
    np.testing.assert_allclose(
        scores.values[graph.groups[0].classes], expected / expected.norm(), rtol=1e-3
    )


def of_first(net: nn.Module, inputs: Tensor, criterion: str = "mean_activation") -> np.ndarray:
    graph = sc.trace(net, inputs)
    scores = score_classes(graph, net.eval(), criterion, data=[(inputs, None)])
    (group,) = [g for g in graph.groups if any(m.name.endswith("first.weight") for m in g.members)]
    return scores.values[group.classes]


class Shuffled(nn.Module):
    """The activation is declared first, and shared; the norm is not between in the code's order."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.last = nn.Linear(6, 2)
        self.norm = nn.LayerNorm(6)
        self.first = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.norm(self.first(self.act(x)))))


def test_the_activation_is_found_by_what_runs() -> None:
    torch.manual_seed(0)
    net, inputs = Shuffled(), torch.randn(5, 7, 4)
    with torch.no_grad():
        hidden = net.act(net.norm(net.first(net.act(inputs))))
    expected = hidden.abs().mean(dim=(0, 1))
    # A layer norm is coupled to its channels, but reads the weights of one layer only.
    np.testing.assert_allclose(of_first(net, inputs), expected, rtol=1e-5)


class Tokens(nn.Module):
    """A convolution whose channels are moved last before the activation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Conv2d(3, 6, 1), act, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x).permute(0, 2, 3, 1).transpose(1, 2)))


@pytest.mark.parametrize("act", [nn.ReLU(), nn.SiLU(), nn.Identity()], ids=str)
def test_channels_are_followed_when_they_move(act: nn.Module) -> None:
    torch.manual_seed(0)
    net, inputs = Tokens(act), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        hidden = act(net.first(inputs))
    expected = hidden.abs().mean(dim=(0, 2, 3))
    np.testing.assert_allclose(of_first(net, inputs), expected, rtol=1e-5)


def test_a_dead_channel_goes_first() -> None:
    net = make_net().eval()
    with torch.no_grad():
        net.fc1.bias.fill_(5.0)
        net.fc1.bias[3] = -1e3
    scores = score("apoz", net)
    assert list(np.flatnonzero(scores.values[WIDE:OPEN] == 0)) == [3]
    sc.prune(
        net,
        make_data()[0][0],
        granularity="neuron",
        criterion="apoz",
        budget={"params": 0.97},
        data=make_data(),
    )
    assert net.fc1.out_features == 4 and bool((net.fc1.bias > -1e2).all())


def test_batches_of_other_sizes_count_by_their_samples() -> None:
    (inputs, targets), other = make_data(2)
    halves = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:]), other]
    for criterion in FAMILY:
        np.testing.assert_allclose(
            score(criterion, data=halves).values,
            score(criterion, data=make_data(2)).values,
            rtol=1e-4,
        )


def test_weights_that_are_computed_first_are_followed() -> None:
    torch.manual_seed(0)
    wrapped = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
    net = nn.Sequential(wrapped, nn.ReLU(), nn.Linear(6, 2))
    inputs = torch.randn(5, 4)
    graph = sc.trace(net, inputs)
    scores = score_classes(graph, net, "mean_activation", data=[(inputs, None)])
    with torch.no_grad():
        expected = torch.relu(net[0](inputs)).mean(dim=0)
    np.testing.assert_allclose(scores.values[graph.groups[0].classes], expected, rtol=1e-5)


def test_recurrent_layers_cannot_be_judged() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    net, inputs = Reader(), torch.randn(2, 6, 3)
    scores = score_classes(sc.trace(net, inputs), net, "apoz", data=[(inputs, None)])
    assert not scores.judged.any() and "followed" in scores.reason


@pytest.mark.parametrize("criterion", FAMILY)
class TestErrors:
    def test_parts_of_weights(self, criterion: str) -> None:
        with clear_error(InputError, criterion, "whole channels", "'channel'"):
            elements(make_net(), criterion, make_data())

    def test_missing_and_empty_data(self, criterion: str) -> None:
        with clear_error(InputError, criterion, "outputs of layers", "data="):
            score(criterion, data=None)
        with clear_error(InputError, "no batch"):
            score(criterion, data=[])
        with clear_error(InputError, "rejects a batch"):
            score(criterion, data=[(torch.zeros(1, 9, 2, 2), torch.zeros(1).long())])

    def test_not_a_number(self, criterion: str) -> None:
        net = make_net()
        with torch.no_grad():
            net.conv1.weight[0] = float("nan")
        with pytest.raises((InputError, CriterionError), match=r"NaN|nan"):
            score(criterion, net)

    def test_progress(self, criterion: str) -> None:
        told: list[tuple[int, int | None]] = []
        line = f"{criterion}:max_batches=2"
        score(line, data=make_data(3), progress=lambda *pair: told.append(pair))
        assert told == [(1, 2), (2, 2)]


def test_an_activation_that_is_written_over_has_no_gradient() -> None:
    class Over(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            # ReLU's own backward pass needs what it returned, a clamp's does not.
            return self.last(self.first(x).clamp(min=0).add_(1.0))

    net, inputs = Over(), torch.randn(2, 4)
    with clear_error(InputError, "'first.weight'", "in place"):
        score_classes(
            sc.trace(net, inputs), net, "taylor_activation", data=[(inputs, torch.tensor([0, 1]))]
        )
    assert (of_first(net, inputs) >= 0).all()


def test_options_are_checked() -> None:
    with clear_error(InputError, "epsilon"):
        sc.criteria.as_criterion("apoz:epsilon=-1")
    with clear_error(InputError, "max_batches"):
        sc.criteria.as_criterion("hrank:max_batches=0")
    with clear_error(InputError, "unknown absolute 'samples'", "did you mean 'sample'"):
        sc.criteria.as_criterion("taylor_activation:absolute=samples")
