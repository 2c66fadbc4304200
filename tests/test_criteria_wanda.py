"""Wanda against norms of unfolded inputs, and its comparison within rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.hand_graph import clear_error, make_data, make_net, score
from tests.test_criteria_gradient import elements
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.errors import InputError


def close(found: Tensor, expected: Tensor) -> None:
    np.testing.assert_allclose(found.double(), expected.detach().double(), rtol=1e-4, atol=1e-6)


def data_of(*shape: int, batches: int = 2) -> list[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(shape, generator=generator), None) for _ in range(batches)]


def test_of_a_linear_layer_is_the_paper_s() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4))
    data = data_of(3, 7, 5)
    tokens = torch.cat([x.reshape(-1, 5) for x, _ in data])
    close(elements(net, "wanda", data)["0.weight"], net[0].weight.abs() * tokens.norm(dim=0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(2, 1), padding=(2, 0)),
        nn.Conv2d(4, 6, 3, groups=2, padding=1),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 6, 1, stride=2),
    ],
    ids=str,
)
def test_of_a_convolution_is_that_of_its_matrix_form(layer: nn.Conv2d) -> None:
    net, data = nn.Sequential(layer), data_of(2, 4, 7, 8)
    padded = [x for x, _ in data]
    padding: Any = layer.padding
    if layer.padding_mode == "circular":
        padded, padding = [functional.pad(x, (1, 1, 1, 1), mode="circular") for x in padded], 0
    columns = [
        functional.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
        for x in padded
    ]
    norms = torch.stack([c.square().sum(dim=(0, 2)) for c in columns]).sum(0).sqrt()
    inputs = layer.in_channels // layer.groups
    norms = norms.view(layer.groups, 1, inputs, *layer.kernel_size)
    each = layer.out_channels // layer.groups
    expected = layer.weight.abs() * norms.expand(-1, each, -1, -1, -1).flatten(0, 1)
    close(elements(net, "wanda", data)["0.weight"], expected)


def test_of_a_transposed_convolution_takes_one_norm_a_channel() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    data = data_of(2, 4, 5, 5)
    norms = torch.cat([x for x, _ in data]).square().sum(dim=(0, 2, 3)).sqrt()
    expected = layer.weight.abs() * norms[:, None, None, None]
    found = elements(nn.Sequential(layer), "wanda", data)["0.weight"]
    weight = next(iter(sc.sparsity.prunable_weights(nn.Sequential(layer))))
    close(found, weight.canonical(expected.detach()))


def test_layers_see_what_reaches_them() -> None:
    net, data = make_net().eval(), make_data()
    with torch.no_grad():
        hidden = []
        handle = net.fc2.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
        for inputs, _ in data:
            net(inputs)
        handle.remove()
    norms = torch.cat(hidden).norm(dim=0)
    close(elements(net, "wanda", data)["fc2.weight"], net.fc2.weight.abs() * norms)


def test_weights_used_without_a_module_and_the_other_way_round() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.two = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.two.weight @ (x @ self.one.weight).T

    torch.manual_seed(0)
    net, data = Bare(), data_of(6, 4, batches=1)
    (x, _), found = data[0], elements(Bare(), "wanda", data)
    found = elements(net, "wanda", data)
    close(found["one.weight"], net.one.weight.abs() * x.norm(dim=0)[:, None])
    close(found["two.weight"], net.two.weight.abs() * (x @ net.one.weight).norm(dim=0))


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.9])
def test_every_row_loses_exactly_its_share(sparsity: float) -> None:
    net = make_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    scores = elements(net, "wanda", make_data())
    result = sc.prune(
        net,
        make_data()[0][0],
        granularity="element",
        criterion="wanda",
        allocation="uniform",
        budget={"sparsity": sparsity},
        data=make_data(),
    )
    for name, mask in result.plan.masks.items():
        kept = mask.flatten(1)
        count = math.floor(kept.shape[1] * sparsity + 1e-9)
        assert ((~kept).sum(dim=1) == count).all()
        order = scores[name].flatten(1).argsort(dim=1, stable=True)[:, :count]
        assert not kept.gather(1, order).any()
        assert torch.equal(net.get_parameter(name), before[name] * mask)


def test_scope_is_an_option_of_the_allocation() -> None:
    counts = []
    for criterion, allocation in (("l1", "uniform:scope=row"), ("wanda", "uniform:scope=layer")):
        result = sc.prune(
            make_net(),
            make_data()[0][0],
            granularity="element",
            criterion=criterion,
            allocation=allocation,
            budget={"sparsity": 0.5},
            data=make_data(),
        )
        counts.append((~result.plan.masks["conv2.weight"]).flatten(1).sum(dim=1))
    assert (counts[0] == 27).all() and not (counts[1] == 27).all()
    with clear_error(InputError, "scope", "'row'"):
        sc.allocation.as_allocation("uniform:scope=rows")


def test_ties_in_a_row_go_by_index() -> None:
    net = nn.Sequential(nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(0.5)
    result = sc.prune(
        net,
        torch.ones(1, 6),
        granularity="element",
        criterion="wanda",
        allocation="uniform",
        budget={"sparsity": 0.5},
        data=[(torch.ones(2, 6), None)],
    )
    assert result.plan.masks["0.weight"].int().tolist() == [[0, 0, 0, 1, 1, 1]] * 3


def test_it_composes_with_runs_and_blocks() -> None:
    for granularity in ("block:2x2", "kernel", "run:2"):
        result = sc.prune(
            make_net(),
            make_data()[0][0],
            granularity=granularity,
            criterion="wanda",
            budget={"sparsity": 0.5},
            data=make_data(),
        )
        assert any(not mask.all() for mask in result.plan.masks.values())


def test_weights_without_an_input_are_one_clear_error() -> None:
    net = nn.Sequential(nn.LSTM(4, 3))
    with clear_error(InputError, "'wanda'", "weight_ih_l0"):
        elements(net, "wanda", data_of(2, 5, 4))


def test_missing_and_empty_data() -> None:
    with clear_error(InputError, "'wanda'", "inputs of layers", "data="):
        score("wanda", data=None)
    with clear_error(InputError, "no batch"):
        score("wanda", data=[])
    with clear_error(InputError, "rejects a batch"):
        score("wanda", data=[(torch.zeros(1, 9, 2, 2), None)])


@pytest.mark.parametrize("batch_first", [True, False])
def test_of_attention(batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, dropout=0.0)
    data = data_of(2, 5, 8)
    tokens = torch.cat([x.reshape(-1, 8) for x, _ in data])
    found = elements(nn.Sequential(layer), "wanda", data)
    weight = layer.self_attn.in_proj_weight
    close(found["0.self_attn.in_proj_weight"], weight.abs() * tokens.norm(dim=0))
    assert found["0.self_attn.out_proj.weight"].min() >= 0
