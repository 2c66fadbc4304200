"""The weights that criteria see: chunks, precisions, weights that are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.hand_graph import (
    Graph,
    Group,
    Largest,
    Member,
    make_net,
)
from torch import Tensor, nn

from secateur.criteria import elementwise as elementwise_module
from secateur.criteria import (
    score_classes,
)
from secateur.criteria.elementwise import sums_along
from secateur.criteria.fpgm import summed_distances
from secateur.criteria.weights import effective_weight


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ],
)
def test_parametrised_weights_are_scored_as_they_act(wrap: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[3.0], [1.0], [0.1], [2.0], [0.5]]))
    net = nn.Sequential(wrap(layer)).eval()
    net(torch.zeros(1, 6))
    raw = [n for n, p in net.named_parameters() if p.ndim == 2]
    members = [Member(name, 0, "producer", np.arange(5)) for name in raw]
    graph = Graph(members, [Group("0", np.arange(5), members)], 5)
    expected = net[0].weight.detach().norm(dim=1)
    np.testing.assert_allclose(score_classes(graph, net, "l2").values, expected, rtol=1e-5)


def test_plain_weights_are_themselves() -> None:
    net = make_net()
    weight = net.fc1.weight
    assert effective_weight(net.fc1, "weight", weight) is weight


def test_taylor_reaches_recurrent_and_parametrised_weights() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True)
            self.head = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    net = Reader()
    members = [
        Member("lstm.weight_hh_l0", 1, "consumer", np.arange(5)),
        Member("lstm.weight_ih_l0", 0, "producer", np.tile(np.arange(5), 4)),
        Member("head.parametrizations.weight.original1", 1, "consumer", np.arange(5)),
    ]
    graph = Graph(members, [Group("lstm", np.arange(5), members)], 5)
    data = [(torch.randn(6, 7, 3), torch.randint(4, (6,)))]
    for member in members:
        alone = Graph([member], graph.groups, 5)
        assert (score_classes(alone, net, "taylor", data=data).values > 0).all()


@pytest.mark.parametrize("shape", [(5,), (4, 6), (1, 7, 3), (3, 4, 2, 2), (2, 1, 3, 1), (6, 1)])
def test_sums_along_every_dimension(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weight, grad = torch.randn(shape), torch.randn(shape)
    for chunk in (1, 4, 1 << 19):
        monkeypatch.setattr(elementwise_module, "CHUNK_CPU", chunk)
        dims = list(range(len(shape)))
        found = sums_along(lambda w, g: w * g, weight, grad, dims)
        for dim, vector in zip(dims, found, strict=True):
            others = [d for d in dims if d != dim]
            expected = (weight * grad).sum(dim=others) if others else weight * grad
            assert torch.allclose(vector, expected, atol=1e-5)


def test_half_precision_is_summed_in_single() -> None:
    weight = torch.full((4096, 8), 0.01, dtype=torch.bfloat16)
    expected = 4096 * float(weight[0, 0]) ** 2
    assert sums_along(lambda w, g: w.square(), weight, None, [1])[0].dtype == torch.float32
    (found,) = sums_along(lambda w, g: w.square(), weight, None, [1])
    assert found[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("criterion", ["magnitude", "l1", "random"])
def test_large_weights_are_never_copied_whole(criterion: str) -> None:
    layer = nn.Linear(1536, 2048, bias=False, dtype=torch.bfloat16)
    members = [
        Member("weight", 0, "producer", np.arange(2048)),
        Member("weight", 1, "consumer", 2048 + np.arange(1536)),
    ]
    groups = [Group("out", np.arange(2048), []), Group("in", 2048 + np.arange(1536), [])]
    with Largest() as largest:
        scores = score_classes(Graph(members, groups, 3584), layer, criterion)
    assert scores.judged.all()
    assert largest.elements <= elementwise_module.CHUNK_CPU < layer.weight.numel()


def test_distances_are_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.criteria.fpgm.CHUNK", 5_000)
    rows = torch.randn(500, 4)
    with Largest() as largest:
        summed_distances(rows)
    assert largest.elements <= 5_000
