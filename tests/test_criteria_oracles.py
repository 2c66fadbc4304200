"""Criteria against brute force: every score, computed again the slow way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.hand_graph import (
    HIDDEN,
    OPEN,
    WIDE,
    Graph,
    Group,
    Member,
    Net,
    make_data,
    make_graph,
    make_net,
    score,
)
from torch import Tensor, nn

from secateur.criteria import (
    Random,
    Taylor,
    score_classes,
    score_units,
)
from secateur.criteria.fpgm import summed_distances


def slices(net: Net, view: str) -> dict[int, list[Tensor]]:
    """The weights of every class, cut out one by one."""
    found: dict[int, list[Tensor]] = {c: [] for c in range(OPEN)}
    for member in make_graph().members:
        tensor = net.get_parameter(member.name) if "running" not in member.name else None
        if tensor is None or tensor.ndim < 2 or view not in ("group", member.role):
            continue
        for position, c in enumerate(member.classes):
            if c < OPEN:
                found[int(c)].append(tensor.select(member.dim, position).detach())
    return found


@pytest.mark.parametrize("view", ["producer", "consumer", "group"])
@pytest.mark.parametrize("name, order", [("l1", 1), ("l2", 2), ("magnitude", 2)])
def test_norms_against_brute_force(name: str, order: int, view: str) -> None:
    net = make_net()
    expected = [
        torch.cat([piece.flatten() for piece in pieces]).double().norm(order).item()
        for pieces in slices(net, view).values()
    ]
    values = score(f"{name}:view={view}", net).values
    np.testing.assert_allclose(values[:OPEN], expected, rtol=1e-5)


def test_magnitude_of_a_single_layer_is_the_filter_norm() -> None:
    net = make_net()
    graph = make_graph()
    graph.members = [m for m in graph.members if m.name == "conv1.weight"]
    scores = score_classes(graph, net, "l1:view=producer")
    expected = net.conv1.weight.detach().abs().sum(dim=(1, 2, 3))
    np.testing.assert_allclose(scores.values[:WIDE], expected, rtol=1e-5)
    assert not scores.judged[WIDE:OPEN].any()


def test_fpgm_oracle() -> None:
    assert summed_distances(torch.tensor([[0.0], [1.0], [10.0]])).tolist() == [11, 10, 19]


def test_fpgm_tells_a_filter_from_its_negative() -> None:
    filters = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0]])
    assert torch.allclose(summed_distances(filters), 20**0.5 * torch.tensor([1.0, 2.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fpgm_against_brute_force(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    filters = 5 + torch.randn(23, 31, dtype=dtype)
    filters[4] = filters[11]
    rows = filters.double().numpy()
    expected = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1)).sum(1)
    np.testing.assert_allclose(summed_distances(filters), expected, rtol=1e-6)
    monkeypatch.setattr("secateur.criteria.fpgm.DOUBLE", 0)
    monkeypatch.setattr("secateur.criteria.fpgm.CHUNK", 100)
    np.testing.assert_allclose(summed_distances(filters), expected, rtol=1e-4)


def test_fpgm_does_not_change_under_translation() -> None:
    torch.manual_seed(0)
    filters = torch.randn(9, 14)
    moved = filters + 3 * torch.randn(14)
    assert torch.allclose(summed_distances(filters), summed_distances(moved), rtol=1e-5)


@pytest.mark.parametrize("view", ["producer", "consumer", "group"])
def test_fpgm_of_a_net_adds_the_layers(view: str) -> None:
    net = make_net()
    conv1, conv2 = net.conv1.weight.detach(), net.conv2.weight.detach()
    fc1 = net.fc1.weight.detach()
    producers = [conv1.flatten(1), conv2.flatten(1)]
    consumers = [
        conv2.transpose(0, 1).flatten(1),
        fc1.view(HIDDEN, WIDE, 4).transpose(0, 1).flatten(1),
    ]
    chosen = {"producer": producers, "consumer": consumers, "group": producers + consumers}[view]
    expected = sum(torch.cdist(rows.double(), rows.double()).sum(1) for rows in chosen)
    values = score(f"fpgm:view={view}", net).values
    np.testing.assert_allclose(values[:WIDE], expected, rtol=1e-5)


def test_fpgm_compares_within_a_group_only() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 5)
    holder = nn.Module()
    holder.weight = nn.Parameter(weight)
    member = Member("weight", 1, "consumer", np.array([0, 3, 1, 4, -1]))
    groups = [Group("a", np.array([0, 1]), []), Group("b", np.array([3, 4]), [])]
    scores = score_classes(Graph([member], groups, 5), holder, "fpgm:view=consumer")
    a, b = (weight[:, 0] - weight[:, 2]).norm().item(), (weight[:, 1] - weight[:, 3]).norm().item()
    np.testing.assert_allclose(scores.values, [a, a, 0, b, b], rtol=1e-6)


def test_bn_scale_is_the_mean_absolute_scale() -> None:
    net = make_net()
    with torch.no_grad():
        net.bn1.weight[2] = -3.0
    scores = score("bn_scale", net)
    expected = (net.bn1.weight.abs() + net.bn2.weight.abs()).detach() / 2
    np.testing.assert_allclose(scores.values[:WIDE], expected, rtol=1e-6)


def test_bn_scale_cannot_judge_channels_without_batch_norm() -> None:
    scores = score("bn_scale")
    assert not scores.judged[WIDE:].any()
    assert "batch norm" in scores.reason


def test_bn_scale_without_affine_judges_nothing() -> None:
    net = make_net()
    net.bn1 = nn.BatchNorm2d(6, affine=False)
    net.bn2 = nn.BatchNorm2d(6, affine=False)
    assert not score("bn_scale", net).judged.any()


def taylor_by_hand(net: Net, reduction: str, view: str, data: list[Any]) -> np.ndarray:
    total = np.zeros(OPEN)
    names = [name for name, _ in net.named_parameters()]
    net.eval()
    for inputs, targets in data:
        loss = nn.functional.cross_entropy(net(inputs), targets)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        products = {
            n: (p * g).detach().double()
            for n, p, g in zip(names, net.parameters(), grads, strict=True)
        }
        pieces: dict[int, list[Tensor]] = {c: [] for c in range(OPEN)}
        for member in make_graph().members:
            if member.name not in products or view not in ("group", member.role):
                continue
            for position, c in enumerate(member.classes):
                if c < OPEN:
                    piece = products[member.name].select(member.dim, position)
                    pieces[int(c)].append(piece.flatten())
        for c, found in pieces.items():
            one = torch.cat(found)
            value = one.square().sum() if reduction == "sum_of_squares" else one.sum().square()
            total[c] += value.item() / len(data)
    return total


@pytest.mark.parametrize("view", ["producer", "consumer", "group"])
@pytest.mark.parametrize("reduction", ["sum_of_squares", "square_of_sum"])
def test_taylor_against_autograd(reduction: str, view: str) -> None:
    net, data = make_net(dtype=torch.float64), make_data(3, torch.float64)
    expected = taylor_by_hand(net, reduction, view, data)
    values = score(Taylor(reduction, view), net, data=data).values  # type: ignore[arg-type]
    np.testing.assert_allclose(values[:OPEN], expected, rtol=1e-9)


def test_the_two_taylor_reductions_rank_differently() -> None:
    first = score("taylor:reduction=sum_of_squares").values[:WIDE]
    second = score("taylor:reduction=square_of_sum").values[:WIDE]
    assert list(np.argsort(first)) != list(np.argsort(second))


def test_taylor_predicts_the_change_of_the_loss() -> None:
    """Scaling a layer's filter and bias by 1 - e changes the loss by e times the score's root."""
    net, (batch,) = make_net(dtype=torch.float64).eval(), make_data(1, torch.float64)
    graph = make_graph()
    graph.members = [m for m in graph.members if m.name.startswith("fc1") and m.dim == 0]
    values = score_classes(graph, net, "taylor:reduction=square_of_sum", data=[batch]).values

    def loss() -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(net(batch[0]), batch[1]).item()

    step = 1e-6
    for unit in range(HIDDEN):
        before = loss()
        with torch.no_grad():
            net.fc1.weight[unit] *= 1 - step
            net.fc1.bias[unit] *= 1 - step
        change = (loss() - before) / step
        with torch.no_grad():
            net.fc1.weight[unit] /= 1 - step
            net.fc1.bias[unit] /= 1 - step
        assert change**2 == pytest.approx(values[WIDE + unit], rel=1e-3, abs=1e-10)


def test_units_add_up_before_the_root() -> None:
    net, graph = make_net(), make_graph()
    units = [np.array([0, 1]), np.array([2, 5]), np.array([3, 4])]
    pairs = score_units(graph, net, "l2", units).values
    single = score_classes(graph, net, "l2").values
    np.testing.assert_allclose(pairs, [np.hypot(*single[unit]) for unit in units], rtol=1e-6)


def test_tied_weights_count_once() -> None:
    holder = nn.ModuleList([nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)])
    holder[1].weight = holder[0].weight
    members = [Member(f"{i}.weight", 0, "producer", np.arange(4)) for i in range(2)]
    graph = Graph(members, [Group("0.weight", np.arange(4), members)], 4)
    expected = holder[0].weight.detach().norm(dim=1)
    np.testing.assert_allclose(score_classes(graph, holder, "l2").values, expected, rtol=1e-6)


def test_random_depends_on_the_seed_only() -> None:
    a, b = score(Random(), make_net(0), seed=1).values, score(Random(), make_net(9), seed=1).values
    assert (a == b).all()
    assert (a != score(Random(), seed=2).values)[:OPEN].all()
    assert len(set(a[:OPEN])) == OPEN
