"""What stands between zeros and outputs: norms, gates, attention, recurrence, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import secateur as sc
from compacting import outputs
from parity import assert_same, randomise, snapshot
from secateur.errors import NothingToPruneError


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
