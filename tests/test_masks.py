"""Masked entries are exactly zero, whatever trains the model, and come back when asked for."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import swa_utils

import secateur as sc
from masking import (
    check,
    computed_net,
    half,
    images,
    masked_net,
    masks_for,
    rows,
    small_net,
    train,
)
from secateur.masks import keeper_of
from secateur.masks.keeper import KEEPERS

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(
        p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adam one by one": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.01, max_iter=4),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_entries_stay_zero_under_any_optimizer(name: str) -> None:
    """Also when velocity and moments are from before the mask."""
    torch.manual_seed(0)
    model, x = small_net(), images()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, lambda: x)
    masks = masks_for(model)
    sc.apply_masks(model, masks)
    before = model[4].weight.detach().clone()
    for _ in range(4):
        train(model, optimizer, lambda: x, steps=1)
        check(model, masks)
    assert not torch.equal(before, model[4].weight)


def test_stale_velocity_does_not_move_a_masked_weight() -> None:
    weight = nn.Linear(1, 1, bias=False)
    weight.weight.data.fill_(1.0)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1, momentum=0.9)
    weight(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    sc.apply_masks(weight, {"weight": torch.zeros(1, 1, dtype=torch.bool)})
    optimizer.zero_grad()
    weight(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    assert weight.weight.item() == 0.0


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_apply_compose_and_remove_restore_the_bits(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    module = nn.Module()
    module.register_parameter("w", nn.Parameter(torch.randn(shape).to(dtype)))
    if len(shape) == 4 and data.draw(st.booleans()):
        module.w.data = module.w.data.contiguous(memory_format=torch.channels_last)
    dense = module.w.detach().clone()
    seeds = data.draw(st.lists(st.integers(0, 1000), min_size=1, max_size=3))
    expected = torch.ones(shape, dtype=torch.bool)
    for seed in seeds:
        sc.apply_masks(module, {"w": half(dense, seed)})
        expected &= half(dense, seed)
    assert torch.equal(sc.masks_of(module)["w"], expected)
    assert torch.equal(module.w, torch.where(expected, dense, torch.zeros_like(dense)))
    keeper = keeper_of(module.w)
    assert keeper is not None and keeper.values is not None
    assert keeper.values.numel() == int((~expected).sum())
    sc.remove_masks(module)
    assert torch.equal(module.w, dense) and sc.masks_of(module) == {}


def test_removing_after_training_gives_the_old_values_at_masked_places() -> None:
    model = small_net()
    dense = model[4].weight.detach().clone()
    masks = masks_for(model)
    sc.apply_masks(model, masks)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01))
    trained = model[4].weight.detach().clone()
    sc.remove_masks(model)
    mask = masks["4.weight"]
    assert torch.equal(model[4].weight[~mask], dense[~mask])
    assert torch.equal(model[4].weight[mask], trained[mask])
    assert not torch.equal(trained[mask], dense[mask])
    assert not model[4].weight._backward_hooks and not model[4]._load_state_dict_post_hooks
    train(model, torch.optim.SGD(model.parameters(), lr=0.01))
    assert torch.count_nonzero(model[4].weight) == dense.numel()


def test_finalize_leaves_plain_zeros() -> None:
    model = masked_net()
    output = model.eval()(x := images())
    sc.finalize(model)
    assert torch.equal(model(x), output) and sc.masks_of(model) == {}
    assert not model[4].weight._backward_hooks and "_secateur_keepers" not in vars(model[4])
    zeros = int((model[4].weight == 0).sum())
    train(model.train(), torch.optim.SGD(model.parameters(), lr=0.1))
    assert zeros > 0 and int((model[4].weight == 0).sum()) < zeros


def test_gradients_are_masked_as_they_arrive_so_clipping_sees_none() -> None:
    model = masked_net()
    twin = copy.deepcopy(model)
    sc.finalize(twin)
    x = images()
    for net in (model, twin):
        net(x).square().sum().backward()
    masks = sc.masks_of(model)
    for name, parameter in twin.named_parameters():
        if name in masks:
            parameter.grad.masked_fill_(~masks[name], 0)
    norms = [nn.utils.clip_grad_norm_(net.parameters(), 1.0) for net in (model, twin)]
    assert norms[0] == norms[1]


def test_infinite_gradients_of_masked_entries_go() -> None:
    weight = nn.Linear(2, 1, bias=False)
    sc.apply_masks(weight, {"weight": torch.tensor([[True, False]])})
    weight(torch.tensor([[1.0, float("inf")]])).nan_to_num().sum().backward()
    (weight.weight * torch.tensor([[1.0, float("inf")]])).sum().backward()
    assert weight.weight.grad.isfinite().all()


def test_gradients_can_stay_dense_until_the_step() -> None:
    model = masked_net()
    keeper = keeper_of(model[4].weight)
    assert keeper is not None
    keeper.masks_gradients = False
    optimizer = torch.optim.Adam(model.parameters())
    model(images()).square().sum().backward()
    gone = ~keeper.mask
    assert torch.count_nonzero(model[4].weight.grad[gone]) > 0
    optimizer.step()
    assert torch.count_nonzero(optimizer.state[model[4].weight]["exp_avg"][gone]) == 0
    check(model, sc.masks_of(model))
    assert not keeper_of(copy.deepcopy(model)[4].weight).masks_gradients  # type: ignore[union-attr]


def test_a_keeper_takes_another_mask() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    sc.apply_masks(layer, {"weight": torch.tensor([[False, False, True, True]])})
    keeper = keeper_of(layer.weight)
    assert keeper is not None
    keeper.change(torch.tensor([[True, False, False, True]]))
    assert layer.weight.tolist() == [[0.0, 0.0, 0.0, 4.0]]
    keeper.change(torch.tensor([[True, True, True, True]]), restore=True)
    assert layer.weight.tolist() == [[0.0, 2.0, 3.0, 4.0]]


def test_frozen_parameters_stay_frozen_and_masked_once_they_train() -> None:
    model = small_net()
    model[4].weight.requires_grad_(False)
    masks = masks_for(model)
    sc.apply_masks(model, masks)
    assert not model[4].weight.requires_grad
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer)
    model[4].weight.requires_grad_(True)
    train(model, optimizer, steps=1)
    assert torch.count_nonzero(model[4].weight.grad[~masks["4.weight"]]) == 0
    check(model, masks)


def test_applying_nothing_zeroes_again() -> None:
    model = masked_net()
    masks = sc.masks_of(model)
    with torch.no_grad():
        model[4].weight.add_(1.0)
    sc.apply_masks(model, {})
    check(model, masks)


def test_sparse_gradients_are_masked() -> None:
    model = nn.Embedding(6, 3, sparse=True)
    mask = half(model.weight)
    sc.apply_masks(model, {"weight": mask})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.tensor([1, 1, 4])).square().sum().backward()
    assert model.weight.grad.is_sparse
    assert torch.count_nonzero(model.weight.grad.to_dense()[~mask]) == 0
    optimizer.step()
    check(model, {"weight": mask})


def test_an_average_of_the_weights_stays_zero() -> None:
    model = masked_net()
    masks = sc.masks_of(model)
    ema = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        train(model, optimizer, steps=1)
        ema.update_parameters(model)
    check(ema.module, masks)
    assert sc.masks_of(ema.module).keys() == masks.keys()


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_an_average_of_buffers_too_stays_zero(name: str) -> None:
    model = computed_net(name)
    masks = {"0.weight": half(torch.empty(4, 4))}
    sc.apply_masks(model, masks)
    ema = swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(3):
        train(model, torch.optim.SGD(model.parameters(), lr=0.01), rows, steps=1)
        ema.update_parameters(model)
    check(ema.module, masks)


def test_compiled_steps_of_an_optimizer_keep_zeros() -> None:
    torch._dynamo.reset()
    model = masked_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        optimizer.zero_grad()
        model(images()).square().sum().backward()
        step()
    check(model, sc.masks_of(model))


@pytest.mark.parametrize(
    ("name", "mask", "error", "message"),
    [
        ("4.wieght", torch.ones(10, 64, dtype=torch.bool), LookupError, "did you mean '4.weight'"),
        ("4.weight", torch.ones(10, 63, dtype=torch.bool), ValueError, r"\[10, 63\], and the weig"),
        ("4.weight", torch.ones(10, 64), ValueError, "must be a bool tensor"),
        ("4.weight", [[True]], ValueError, "must be a bool tensor"),
    ],
)
def test_a_wrong_mask_is_one_error_and_changes_nothing(
    name: str, mask: Any, error: type[Exception], message: str
) -> None:
    model = small_net()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(sc.errors.SecateurError, match=message) as caught:
        sc.apply_masks(model, {"0.weight": half(model[0].weight), name: mask})
    assert isinstance(caught.value, error)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert sc.masks_of(model) == {} and sc.history(model) == []


def test_a_model_that_is_let_go_takes_its_keepers_along() -> None:
    model = masked_net()
    weight = model[4].weight
    keeper = weakref.ref(keeper_of(weight))  # type: ignore[arg-type]
    count = len(KEEPERS)
    del model
    gc.collect()
    assert keeper() is None and len(KEEPERS) < count
    # What is left of it is a parameter like any other.
    assert not weight._backward_hooks
    weight.square().sum().backward()


def test_buffers_can_be_masked() -> None:
    model = nn.BatchNorm1d(3)
    mask = torch.tensor([True, False, True])
    sc.apply_masks(model, {"running_var": mask})
    model.load_state_dict(nn.BatchNorm1d(3).state_dict())
    assert model.running_var.tolist() == [1.0, 0.0, 1.0]
    sc.remove_masks(model)
    assert model.running_var.tolist() == [1.0, 1.0, 1.0]
