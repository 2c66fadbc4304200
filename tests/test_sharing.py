"""Shared weights: k-means, gradients of the centroids, zeros that stay zeros."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from secateur.errors import InputError, NothingToPruneError, UnknownNameError
from secateur.sharing import nearest_means


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))


def cost(entries: np.ndarray, centres: np.ndarray) -> float:
    return float(np.square(entries[:, None] - centres[None]).min(1).sum())


@settings(max_examples=80, deadline=None)
@given(
    entries=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40),
    count=st.sampled_from([1, 2, 4, 8]),
)
def test_every_mean_is_that_of_the_entries_nearest_to_it(entries, count) -> None:
    values = np.array(entries, np.float64)
    centres = nearest_means(values, count)
    assert 1 <= len(centres) <= count and (np.diff(centres) >= 0).all()
    nearest = np.abs(values[:, None] - centres[None]).argmin(1)
    better = [values[nearest == at].mean() for at in range(len(centres)) if (nearest == at).any()]
    # A round more changes nothing.
    assert (
        cost(values, np.array(better))
        >= cost(values, centres) - 1e-6 * (1 + np.abs(values).max()) ** 2
    )


def test_two_means_of_few_entries_are_the_best_there_are() -> None:
    values = np.array([-3.0, -2.9, -2.0, 1.0, 1.1, 1.4])
    best = min(
        cost(values, np.array([values[list(group)].mean(), np.delete(values, group).mean()]))
        for size in range(1, 6)
        for group in itertools.combinations(range(6), size)
    )
    assert cost(values, nearest_means(values, 2)) == pytest.approx(best)


def test_scikit_learn_finds_the_same_means() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    values = np.random.default_rng(0).uniform(size=3000) ** 2
    start = np.linspace(values.min(), values.max(), 16)[:, None]
    theirs = cluster.KMeans(16, init=start, n_init=1, tol=0, max_iter=100).fit(values[:, None])
    mine = nearest_means(values, 16)
    assert np.allclose(mine, np.sort(theirs.cluster_centers_[:, 0]), atol=1e-6)


@pytest.mark.parametrize("gradients", ["mean", "sum"])
def test_gradients_of_one_value_become_one(gradients) -> None:
    model, plain = net(), net()
    shared = sc.share_weights(model, bits=2, gradients=gradients)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(8, 20)
    for each in (model, plain):
        each(x).square().mean().backward()
    for name in ("0.weight", "2.weight"):
        weight, own = model.get_parameter(name), plain.get_parameter(name).grad
        assert len(weight.unique()) == 4
        for value in weight.detach().unique():
            held = weight.detach() == value
            expected = own[held].mean() if gradients == "mean" else own[held].sum()
            torch.testing.assert_close(weight.grad[held], expected.expand(int(held.sum())))
    assert torch.equal(model[0].bias.grad, plain[0].bias.grad)
    shared.finish()
    model.zero_grad()
    model(x).square().mean().backward()
    torch.testing.assert_close(model[0].weight.grad, plain[0].weight.grad)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_moves_the_values_and_keeps_zeros_and_sharing(tmp_path, optimizer) -> None:
    model = net()
    x = torch.randn(64, 20)
    y = x[:, :4].argmax(1)
    sc.prune(model, x[:2], granularity="element", budget={"sparsity": 0.7})
    zeros = {name: ~mask for name, mask in sc.masks_of(model).items()}
    shared = sc.share_weights(model, bits={"0": 4, "*": 3})
    start = {name: values.clone() for name, values in shared.values.items()}
    losses = []
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, weight_decay=1e-4),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.03),
    }[optimizer]
    steps = make(model.parameters())
    for _ in range(150):
        steps.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        steps.step()
        losses.append(loss.item())
    shared.finish()
    assert losses[-1] < 0.9 * losses[0]
    for name, width in (("0.weight", 4), ("2.weight", 3)):
        weight = model.get_parameter(name).detach()
        assert not weight[zeros[name]].any() and (weight != 0).any()
        assert len(weight[~zeros[name]].unique()) <= 2**width
        assert not torch.equal(shared.values[name], start[name])
    path = sc.save(model, tmp_path / "shared.safetensors", format="sparse")
    loaded = sc.load(net(), path)
    assert torch.equal(loaded[0].weight, model[0].weight)
    assert sc.masks_of(loaded).keys() == zeros.keys()


def test_shared_weights_take_few_bits_in_a_file(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(500, 400, bias=False))
    sc.prune(model, torch.zeros(1, 500), granularity="element", budget={"sparsity": 0.9})
    before = sc.save(model, tmp_path / "f32.safetensors", format="sparse").stat().st_size
    shared = sc.share_weights(model, bits=5)
    shared.finish()
    after = sc.save(model, tmp_path / "5.safetensors", format="sparse").stat().st_size
    coded = sc.save(model, tmp_path / "h.safetensors", format="sparse", huffman=True).stat().st_size
    # 32 + 5 bits an entry become 5 + 5, and what Huffman makes of them.
    assert after < 0.32 * before and coded < 0.95 * after
    assert shared.error["0.weight"] < 0.1
    loaded = sc.load(nn.Sequential(nn.Linear(500, 400, bias=False)), tmp_path / "h.safetensors")
    assert torch.equal(loaded[0].weight, model[0].weight)


def test_what_cannot_be_shared_is_one_clear_error_and_changes_nothing() -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="from 1 to 8"):
        sc.share_weights(model, bits=9)
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        sc.share_weights(model, gradients="meen")  # type: ignore[arg-type]
    with pytest.raises(NothingToPruneError):
        sc.share_weights(model, ignore=["0", "2"])
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        sc.share_weights(model)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert sc.share_weights(model, bits={"0": 3}).skipped[-1][0] == "2.weight"


def test_a_weight_that_was_cut_meanwhile_says_so() -> None:
    model = net()
    shared = sc.share_weights(model, bits=3)
    sc.prune(model, torch.zeros(1, 20), budget={"params": 0.7})
    with pytest.raises(InputError, match=r"call finish\(\) before pruning"):
        shared.project()
