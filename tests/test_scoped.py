"""State that is other for as long as the code that reads it runs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import secateur as sc
from parity import assert_same, snapshot
from secateur.errors import ParityError
from secateur.graph.trace import record
from secateur.inputs import as_inputs
from secateur.scoped import scoped


class Tied(nn.Module):
    """An embedding that is also the head, a layer used by its parent, and one that can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.Linear(8, 8)
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.fails = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("as asked")
        h = nn.functional.linear(self.embed(x), self.layer.weight, self.layer.bias)
        return self.head(self.rnn(h)[0])


def test_values_are_other_only_inside_and_only_where_they_are_read() -> None:
    net, x = Tied().eval(), torch.arange(6).reshape(2, 3)
    recorded = record(net, as_inputs(x))
    before, alive = snapshot(net), []

    def transform(name: str, data: torch.Tensor) -> torch.Tensor:
        alive.append((name, sum(p.dtype == torch.float64 for p in net.parameters())))
        return data.double()

    with torch.no_grad():
        dense = copy.deepcopy(net).double()(x)
        with scoped(net, recorded, transform):
            assert torch.equal(net(x), dense)
    assert_same(net, before)
    assert {name for name, _ in alive} == {name for name, _ in net.named_parameters()}
    # When the recurrent layer's weights become doubles, no other layer's still are, save those
    # that code outside of their modules reads: the tied one and the layer's.
    assert dict(alive)["rnn.weight_ih_l0"] == 3


def test_everything_is_put_back_after_an_error() -> None:
    net, x = Tied().eval(), torch.arange(6).reshape(2, 3)
    recorded = record(net, as_inputs(x))
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    net.fails = True
    before = snapshot(net)
    failing = pytest.raises(RuntimeError, match="as asked")
    with failing, scoped(net, recorded, lambda name, data: data.double()):
        net(x)
    assert_same(net, before)
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_verified(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 5),
    ).to(dtype)  # fmt: skip
    result = sc.prune(net, torch.randn(2, 3, 8, 8, dtype=dtype), budget={"params": 0.5})
    assert {p.dtype for p in net.parameters()} == {dtype}
    # Half precision is compared in single precision: its own rounding would be a hundredth.
    assert result.error is not None and result.error < 1e-4


def test_a_wrong_index_in_half_precision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.surgery import apply

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).bfloat16()
    before = snapshot(net)
    real = apply.cut

    def wrong(tensor: torch.Tensor, removed: dict[int, list[int]]) -> torch.Tensor:
        if 1 in removed and tensor.shape == (4, 32):
            removed = {1: sorted((index + 1) % 32 for index in removed[1])}
        return real(tensor, removed)

    monkeypatch.setattr(apply, "cut", wrong)
    with pytest.raises(ParityError, match="restored"):
        sc.prune(net, torch.randn(4, 8).bfloat16(), budget={"params": 0.5})
    assert_same(net, before)
