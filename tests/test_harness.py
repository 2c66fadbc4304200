"""The harness itself: its references against models made smaller by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parity import assert_close, assert_same, outputs, randomise, silence, snapshot
from secateur.plan import Plan
from zoo import mask_norms
from zoo.layers import LayerNorm2d, RMSNorm

GONE, KEPT = [1, 4, 5], [0, 2, 3, 6, 7, 8, 9, 10, 11]


def cut(tensor: Tensor, dim: int = 0) -> Tensor:
    return tensor.detach().index_select(dim, torch.tensor(KEPT))


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, RMSNorm, LayerNorm2d])
def test_masked_norm_is_the_smaller_norm(kind: type[nn.Module]) -> None:
    dense = randomise(nn.Sequential(kind(12, eps=1e-6)), 1).double()
    small = nn.Sequential(kind(9, eps=1e-6)).double()
    for name, parameter in small.named_parameters():
        parameter.data = cut(dense.get_parameter(name))
    x = torch.randn(2, 12, 4, 3) if kind is LayerNorm2d else torch.randn(2, 5, 12)
    dim = 1 if kind is LayerNorm2d else 2
    x = x.double()
    mask_norms(dense, {"0.weight": {0: GONE}})
    assert torch.allclose(cut(dense(x), dim), small(cut(x, dim)), atol=1e-12)
    assert not dense(x).index_select(dim, torch.tensor(GONE)).any()


def test_masked_norm_without_removal_is_the_norm() -> None:
    norm = randomise(nn.Sequential(nn.GroupNorm(3, 12), nn.LayerNorm([12, 4, 2])), 2).double()
    x = torch.randn(2, 12, 4, 2).double()
    expected = norm(x)
    mask_norms(norm, {"0.weight": {0: []}, "1.weight": {0: []}})
    assert torch.allclose(norm(x), expected, atol=1e-12)


def test_masked_group_norm_keeps_groups_apart() -> None:
    dense = randomise(nn.Sequential(nn.GroupNorm(3, 12)), 3).double()
    small = nn.Sequential(nn.GroupNorm(3, 9)).double()
    kept = torch.tensor([0, 2, 3, 4, 5, 7, 8, 10, 11])
    for name, parameter in small.named_parameters():
        parameter.data = dense.get_parameter(name).detach()[kept]
    x = torch.randn(2, 12, 5).double()
    mask_norms(dense, {"0.weight": {0: [1, 6, 9]}})
    assert torch.allclose(dense(x)[:, kept], small(x[:, kept]), atol=1e-12)


def test_silenced_model_is_the_smaller_model() -> None:
    dense = randomise(
        nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Sigmoid(), nn.Conv2d(12, 4, 1)), 4
    ).eval()
    small = nn.Sequential(
        nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.Sigmoid(), nn.Conv2d(9, 4, 1)
    ).eval()
    removed = {
        name: {0: GONE}
        for name in (
            "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
        )
    }  # fmt: skip
    removed["3.weight"] = {1: GONE}
    state = dense.state_dict()
    for name, dims in removed.items():
        for dim in dims:
            state[name] = cut(state[name], dim)
    small.load_state_dict(state)
    x = torch.randn(2, 3, 6, 5)
    reference = silence(dense.double(), Plan(removed=removed))
    assert_close(outputs(small.double(), x.double()), outputs(reference, x.double()), "small")

    removed["3.weight"] = {1: [1, 4, 6]}
    reference = silence(dense, Plan(removed=removed))
    with pytest.raises(AssertionError, match="is off by"):
        assert_close(outputs(small, x.double()), outputs(reference, x.double()), "small")


def test_snapshot_sees_every_change() -> None:
    model = randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    before = snapshot(model)
    assert_same(model, before)
    changes = [
        lambda: setattr(model[0], "out_features", 5),
        lambda: model[0].weight.requires_grad_(False),
        lambda: model[1].eval(),
        lambda: model[1].running_mean.add_(1),
        lambda: setattr(model[0], "bias", nn.Parameter(model[0].bias.detach().clone())),
    ]
    for change in changes:
        change()
        with pytest.raises(AssertionError):
            assert_same(model, before)
        before = snapshot(model)


def test_randomise_leaves_nothing_constant() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.PReLU(6))
    randomise(model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.numel() > 1:
            assert tensor.flatten().unique().numel() == tensor.numel(), name
    assert bool((model[1].running_var > 0).all())
