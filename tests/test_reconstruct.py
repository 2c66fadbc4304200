"""`reconstruct`: least squares against the dense model, layer by layer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from recovering import images, net, same, state
from secateur.errors import InputError, UnknownNameError


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3)
    ).double()


def rows(count: int = 200, seed: int = 0) -> list[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator).double()
    return [(x[:120], None), (x[120:], None)]


def ridge_fit(x: np.ndarray, y: np.ndarray, start: np.ndarray, ridge: float) -> np.ndarray:
    """argmin of mean ‖y − W x‖² + λ ‖W − W₀‖², λ = ridge · mean square of x, as one lstsq."""
    strength = np.sqrt(ridge * (x**2).mean() * len(x))
    top = np.concatenate([x, strength * np.eye(x.shape[1])])
    wanted = np.concatenate([y, strength * start.T])
    return np.linalg.lstsq(top, wanted, rcond=None)[0].T


@pytest.mark.parametrize("source", ["plan", "history"])
def test_the_fit_is_the_ridge_regression_of_numpy_layer_after_layer(source: str) -> None:
    dense, model = mlp(), mlp()
    result = sc.prune(model, rows()[0][0], budget={"params": 0.6})
    plan = None
    if source == "plan":
        plan = sc.Plan.from_json(result.plan.to_json())
        model.__dict__.pop("_secateur_history")
    before = copy.deepcopy(model)
    data = rows()
    refits = sc.reconstruct(model, dense, data, plan=plan, ridge=0.01, held_out=0.0)
    assert [refit.name for refit in refits] == ["2.weight", "4.weight"]
    assert all(refit.used and refit.after < refit.before for refit in refits)
    x = torch.cat([x for x, _ in data])
    kept = [at for at in range(10) if at not in result.plan.removed["2.weight"].get(0, [])]
    with torch.no_grad():
        wanted = (dense[:2](x) @ dense[2].weight.T)[:, kept]
        first = ridge_fit(
            before[:2](x).numpy(), wanted.numpy(), before[2].weight.numpy(), ridge=0.01
        )
        np.testing.assert_allclose(model[2].weight.numpy(), first, rtol=1e-8, atol=1e-10)
        # The second layer's inputs are those of the fitted first one.
        second = ridge_fit(
            model[:4](x).numpy(),
            (dense[:4](x) @ dense[4].weight.T).numpy(),
            before[4].weight.numpy(),
            ridge=0.01,
        )
        np.testing.assert_allclose(model[4].weight.numpy(), second, rtol=1e-8, atol=1e-10)
    assert torch.equal(model[0].weight, before[0].weight)
    assert torch.equal(model[2].bias, before[2].bias)


def outputs_missed(model: nn.Module, dense: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = dense.eval()(x)
        return float((model.eval()(x) - wanted).square().mean() / wanted.square().mean())


def test_convolutions_come_nearer_to_the_dense_model_on_new_data() -> None:
    dense = net()
    sc.recover(dense, images(), epochs=4, lr=0.05)
    model = copy.deepcopy(dense)
    sc.prune(model, images()[0][0], budget={"macs": 0.5})
    new = images(seed=9)[0][0]
    before, kept = outputs_missed(model, dense, new), state(dense)
    refits = sc.reconstruct(model, dense, images(96), positions=None)
    assert {refit.name for refit in refits} <= {"3.first.weight", "3.second.weight", "7.weight"}
    assert any(refit.used for refit in refits)
    assert outputs_missed(model, dense, new) < 0.5 * before
    assert same(state(dense), kept)


def test_masked_weights_are_fitted_where_they_are_kept() -> None:
    dense, model = mlp(), mlp()
    sc.prune(model, rows()[0][0], granularity="element", budget={"sparsity": 0.5})
    masks = sc.masks_of(model)
    before = outputs_missed(model, dense, rows(seed=1)[0][0])
    refits = sc.reconstruct(model, dense, rows())
    assert {refit.name for refit in refits} == set(masks) == {"0.weight", "2.weight", "4.weight"}
    for name, mask in sc.masks_of(model).items():
        assert torch.equal(mask, masks[name])
        assert torch.count_nonzero(model.get_parameter(name)[~mask]) == 0
    assert outputs_missed(model, dense, rows(seed=1)[0][0]) < 0.7 * before
    # The dense values come back where the mask is taken off, and only there.
    fitted = model[2].weight.detach().clone()
    sc.remove_masks(model)
    mask = masks["2.weight"]
    assert torch.equal(model[2].weight[~mask], dense[2].weight[~mask])
    assert torch.equal(model[2].weight[mask], fitted[mask])


def test_cut_and_masked_in_several_steps() -> None:
    dense, model = mlp(), mlp()
    x = rows()[0][0]
    sc.prune(model, x, budget={"params": 0.8})
    sc.prune(model, x, budget={"params": 0.8})
    sc.prune(model, x, granularity="element", budget={"sparsity": 0.3})
    before = outputs_missed(model, dense, rows(seed=1)[0][0])
    sc.reconstruct(model, dense, rows())
    assert outputs_missed(model, dense, rows(seed=1)[0][0]) < before
    for name, mask in sc.masks_of(model).items():
        assert torch.count_nonzero(model.get_parameter(name)[~mask]) == 0


def test_a_fit_to_noise_is_not_taken() -> None:
    """Eight rows for ten unknowns: without the held-out check the noise would be fitted."""
    worse = []
    for seed in range(6):
        dense, model = mlp(seed), mlp(seed)
        sc.prune(model, rows()[0][0], budget={"params": 0.7})
        before = state(model)
        generator = torch.Generator().manual_seed(seed)
        few = [(torch.randn(8, 5, generator=generator).double(), None)]
        refits = sc.reconstruct(model, dense, few, ridge=1e-9, held_out=0.5)
        for refit in refits:
            assert refit.after <= refit.before
            assert torch.equal(model.get_parameter(refit.name), before[refit.name]) != refit.used
        worse += [refit for refit in refits if not refit.used]
    assert worse


def test_batch_norms_follow_and_data_may_be_an_iterator_or_dicts() -> None:
    dense = net()
    sc.recalibrate_batchnorm(dense, images())
    fitted = []
    for data in (images(), iter(images()), [{"input": x} for x, _ in images()]):
        model = copy.deepcopy(dense)
        sc.prune(model, images()[0][0], budget={"macs": 0.5})
        sc.reconstruct(model, dense, data)
        fitted.append(state(model))
        expected = copy.deepcopy(model)
        sc.recalibrate_batchnorm(expected, images())
        assert same(state(expected), fitted[-1])
    assert same(fitted[0], fitted[1]) and same(fitted[0], fitted[2])
    model = copy.deepcopy(dense)
    sc.prune(model, images()[0][0], budget={"macs": 0.5})
    before = state(model)
    sc.reconstruct(model, dense, images(), recalibrate=False)
    assert torch.equal(model[1].running_mean, before["1.running_mean"])


def test_layers_can_be_left_out_and_progress_is_told() -> None:
    dense, model = mlp(), mlp()
    sc.prune(model, rows()[0][0], budget={"params": 0.6})
    told: list[tuple[int, int | None]] = []
    refits = sc.reconstruct(
        model, dense, rows(), ignore=["2"], progress=lambda done, total: told.append((done, total))
    )
    assert [refit.name for refit in refits] == ["4.weight"] and told == [(1, 1)]


def test_one_pass_over_the_data_is_enough_when_asked_for() -> None:
    dense, model = mlp(), mlp()
    sc.prune(model, rows()[0][0], budget={"params": 0.6})
    before = outputs_missed(model, dense, rows(seed=1)[0][0])

    class Once(list):
        passes = 0

        def __iter__(self):
            Once.passes += 1
            return super().__iter__()

    # The order of the layers is found in a pass of its own.
    sc.reconstruct(model, dense, Once(rows()), sequential=False, recalibrate=False)
    assert Once.passes == 2
    assert outputs_missed(model, dense, rows(seed=1)[0][0]) < before


class Failing(list):
    """Batches of which the third pass breaks off."""

    passes = 0

    def __iter__(self):
        Failing.passes += 1
        if Failing.passes == 3:
            yield (torch.zeros(2, 99).double(), None)
        yield from super().__iter__()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ridge": 0.0}, InputError, "ridge"),
        ({"held_out": 1.0}, InputError, "held_out"),
        ({"data": []}, InputError, "no batch"),
        ({"data": "failing"}, InputError, "rejects"),
        ({"data": [(torch.full((8, 5), torch.nan).double(), None)]}, InputError, r"ridge|finite"),
        ({"dense": nn.Linear(5, 3).double()}, InputError, "do not fit the dense model"),
        ({"model": mlp()}, InputError, "nothing to fit"),
        ({"ignore": ["*"]}, InputError, "nothing to fit"),
        ({"ignore": ["9"]}, UnknownNameError, "matches no module"),
    ],
)
def test_what_cannot_be_fitted_leaves_the_model_bit_for_bit(change, error, message) -> None:
    model = mlp()
    sc.prune(model, rows()[0][0], budget={"params": 0.6})
    Failing.passes = 0
    arguments = {"model": model, "dense": mlp(), "data": rows(), **change}
    if arguments["data"] == "failing":
        arguments["data"] = Failing(rows())
    before = state(arguments["model"])
    with pytest.raises(error, match=message) as caught:
        sc.reconstruct(**arguments)
    assert "\n" not in str(caught.value)
    assert same(state(arguments["model"]), before)
