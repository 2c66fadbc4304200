"""Weights that are computed, as by weight norm, masked in effect."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import secateur as sc
from masking import (
    PARAMETRISED,
    check,
    computed_net,
    half,
    rows,
    train,
)


@pytest.mark.parametrize("name", PARAMETRISED)
def test_a_computed_weight_is_masked_in_effect(name: str) -> None:
    model = computed_net(name)
    keys = list(model.state_dict())
    state = copy.deepcopy(model.state_dict())
    x = rows()
    model.eval()
    expected = model(x)
    masks = {"0.weight": half(torch.empty(4, 4)), "2.weight": half(torch.empty(2, 4), 3)}
    dense = model[0].weight.detach().clone()
    model.train()
    sc.apply_masks(model, masks)
    assert list(model.state_dict()) == keys
    model.eval()
    check(model, masks)
    assert torch.equal(model[0].weight, dense * masks["0.weight"])
    assert {n: m.tolist() for n, m in sc.masks_of(model).items()} == {
        n: m.tolist() for n, m in masks.items()
    }
    sc.remove_masks(model)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert torch.equal(model(x), expected) and sc.masks_of(model) == {}


@pytest.mark.parametrize("name", PARAMETRISED)
def test_a_computed_weight_trains_masked_and_is_made_final(name: str) -> None:
    model = computed_net(name)
    masks = {"0.weight": half(torch.empty(4, 4))}
    sc.apply_masks(model, masks)
    second = half(torch.empty(4, 4), 5)
    train(model, torch.optim.AdamW(model.parameters(), lr=0.05), rows)
    check(model, masks)
    sc.apply_masks(model, {"0.weight": second})
    both = masks["0.weight"] & second
    if name in ("weight_norm", "spectral_norm", "orthogonal"):
        model = copy.deepcopy(model)
    train(model, torch.optim.AdamW(model.parameters(), lr=0.05), rows)
    check(model, {"0.weight": both})
    x = rows()
    expected = model.eval()(x)
    model.train()
    sc.finalize(model)
    assert list(model.state_dict()) in (
        ["0.weight", "0.bias", "2.weight", "2.bias"],
        ["0.bias", "0.weight", "2.weight", "2.bias"],
    )
    check(model, {"0.weight": both})
    assert torch.equal(model.eval()(x), expected)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "old weight_norm"])
def test_compiled_computed_weights_are_masked(name: str) -> None:
    torch._dynamo.reset()
    model = computed_net(name).eval()
    sc.apply_masks(model, {"0.weight": half(torch.empty(4, 4))})
    x = rows()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_masking_does_not_move_a_spectral_norm_in_training() -> None:
    model = computed_net("spectral_norm").train()
    state = copy.deepcopy(model.state_dict())
    sc.apply_masks(model, {"0.weight": half(torch.empty(4, 4))})
    sc.masks_of(model)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


def test_a_copy_outlives_finalizing_a_parametrised_original() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    net = nn.Sequential(layer)
    sc.apply_masks(net, {"0.weight": torch.eye(4, dtype=torch.bool)})
    other = copy.deepcopy(net)
    x = torch.randn(3, 4)
    before = other(x).detach()
    sc.finalize(net)
    assert torch.equal(other(x), before)
    assert torch.equal(net(x), before)
