"""Stripes regrouped: the masked dense convolution, for any stride, padding and dilation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import InputError, NothingToPruneError
from secateur.sparsity import StripeConv2d, regroup_stripes

CONVS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "bias": False},
    {"kernel_size": 3, "dilation": 2, "padding": 3},
    {"kernel_size": (2, 5), "padding": (0, 2)},
    {"kernel_size": (3, 1), "dilation": (2, 1)},
    {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 1},
]


def striped(conv: nn.Conv2d, share: float = 0.6) -> nn.Conv2d:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        shape = (conv.out_channels, 1, *conv.kernel_size)
        conv.weight *= torch.rand(shape, generator=generator) >= share
    return conv


@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_it_is_the_masked_dense_convolution(options: dict[str, Any], stride: Any) -> None:
    torch.manual_seed(0)
    conv = striped(nn.Conv2d(5, 7, stride=stride, **options).double())
    regrouped = StripeConv2d.of(conv)
    x = torch.randn(2, 5, 11, 12, dtype=torch.double)
    assert torch.allclose(regrouped(x), conv(x), atol=1e-12)
    assert torch.allclose(regrouped(x[0]), conv(x[0]), atol=1e-12)
    dense = regrouped.dense()
    assert torch.equal(dense.weight, conv.weight)
    assert torch.equal(dense(x), conv(x))


@pytest.mark.parametrize("kernel", [3, 4, (2, 3)])
def test_padding_to_the_same_size(kernel: Any) -> None:
    torch.manual_seed(0)
    conv = striped(nn.Conv2d(3, 4, kernel, padding="same", dilation=2).double())
    x = torch.randn(1, 3, 9, 8, dtype=torch.double)
    regrouped = StripeConv2d.of(conv)
    assert torch.allclose(regrouped(x), conv(x), atol=1e-12)
    assert torch.equal(regrouped.dense()(x), conv(x))


def test_gradients_are_those_of_the_stripes() -> None:
    torch.manual_seed(0)
    conv = striped(nn.Conv2d(3, 6, 3, stride=2, padding=1).double())
    regrouped = StripeConv2d.of(conv)
    x, y = (torch.randn(2, 3, 8, 8).double().requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    conv(x).square().sum().backward()
    regrouped(y).square().sum().backward()
    assert torch.allclose(x.grad, y.grad)
    assert torch.allclose(conv.bias.grad, regrouped.bias.grad)
    live = (conv.weight != 0).any(1).permute(1, 2, 0)
    assert torch.allclose(conv.weight.grad.permute(2, 3, 0, 1)[live], regrouped.stripes.grad)


def test_only_what_is_left_is_held_and_computed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2))
    x = torch.randn(2, 8, 10, 10)
    sc.prune(model, x, granularity="stripe", budget={"sparsity": 0.75})
    wanted, before = model(x), sc.profile(model, x)
    live = [int((model[at].weight != 0).any(1).sum()) for at in (0, 2)]
    found = regroup_stripes(model)
    assert list(found) == ["0", "2"]
    assert torch.allclose(model(x), wanted, atol=1e-6)
    after = sc.profile(model, x)
    assert after.params == live[0] * 8 + 16 + live[1] * 16 + 8
    # One multiplication an input, a stripe and a place: 100 places, then 16.
    assert after.macs == 2 * (live[0] * 8 * 100 + live[1] * 16 * 16)
    assert after.macs < 0.5 * before.macs


def test_from_the_regularizer_through_a_file_and_a_copy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2))
    reg = sc.regularizer("stripe", model, ignore=["2"])
    with torch.no_grad():
        reg.parameters()[0][::2, :, 1] = 0.0
        reg.parameters()[0][3] = 0.0
    reg.finish()
    x = torch.randn(1, 3, 7, 7)
    wanted = model(x)
    regroup_stripes(model)
    assert torch.allclose(model(x), wanted, atol=1e-6)
    assert type(model[2]) is nn.Conv2d
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    # Another choice of as many stripes comes with the state dict.
    first = model[0]
    other = StripeConv2d(first.index.flip(0), 3)
    assert not torch.equal(other.index, first.index)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other(x), first(x))


def test_a_convolution_of_nothing_is_its_bias() -> None:
    conv = nn.Conv2d(3, 2, 3)
    nn.init.zeros_(conv.weight)
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(StripeConv2d.of(conv)(x), conv(x))


def test_what_cannot_be_regrouped_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="of one group can be regrouped by stripes, not 2 groups"):
        StripeConv2d.of(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(InputError, match="not Linear"):
        StripeConv2d.of(nn.Linear(4, 4))  # type: ignore[arg-type]
    with pytest.raises(NothingToPruneError, match="prune at granularity 'stripe' first"):
        regroup_stripes(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(InputError, match="2 long after padding, and the kernel spans 3"):
        StripeConv2d.of(nn.Conv2d(1, 1, 3))(torch.zeros(1, 1, 2, 2))
