"""Criteria that look at a layer's output and change what survives, through `sc.prune`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.hand_graph import clear_error, make_data, make_net, score
from tests.test_criteria_gradient import elements
from torch import Tensor, nn

import secateur as sc
from secateur.errors import CriterionError, InputError

LAYERWISE = ["obs", "obs:greedy=True", "sparsegpt", "lasso", "thinet"]
SPARSE = ["obs", "obs:greedy=True", "sparsegpt", "sparsegpt:block=8", "woodfisher"]
STRUCTURED = ["obs", "sparsegpt", "woodfisher", "lasso", "thinet"]


class Net(nn.Module):
    """Every kind of layer, one behind the other; inputs of all go together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2, stride=2)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2, groups=2)
        self.line = nn.Conv1d(8, 10, 3)
        self.fc = nn.Linear(10, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.up(torch.relu(self.grouped(x))))
        x = torch.relu(self.line(x.flatten(2)))
        return self.out(torch.relu(self.fc(x.mean(2))))


def make(seed: int = 0) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(seed)
    basis = torch.randn(6, 3 * 8 * 8)
    data = [
        ((torch.randn(16, 6) @ basis).view(16, 3, 8, 8), torch.randint(4, (16,))) for _ in range(2)
    ]
    return Net().eval(), data


def output_error(model: nn.Module, dense: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        found = torch.cat([model(x) for x, _ in data])
        meant = torch.cat([dense(x) for x, _ in data])
    return float((found - meant).square().mean() / (meant - meant.mean(0)).square().mean())


def options(model: nn.Module, data: Any, criterion: str, granularity: str) -> dict[str, Any]:
    budget = {"sparsity": 0.6} if ":" not in granularity or "vector" in granularity else None
    return {
        "example_inputs": data[0][0][:2], "granularity": granularity, "criterion": criterion,
        "allocation": "uniform", "budget": budget, "data": data,
    }  # fmt: skip


@pytest.mark.parametrize("granularity", ["element", "2:4", "vector:2", "shape", "2:4:transposable"])
@pytest.mark.parametrize("criterion", SPARSE)
class TestSparse:
    def test_the_update_brings_the_output_back(self, criterion: str, granularity: str) -> None:
        dense, data = make()
        models = {}
        for update in (False, True):
            spec = criterion + ("," if ":" in criterion else ":") + f"update={update}"
            models[update] = copy.deepcopy(dense)
            result = sc.prune(models[update], **options(dense, data, spec, granularity))
            assert bool(result.refits) == (update and criterion != "woodfisher")
        fresh = make(1)[1]
        assert output_error(models[True], dense, data) < output_error(models[False], dense, data)
        assert output_error(models[True], dense, fresh) < output_error(models[False], dense, fresh)

    def test_zeros_are_the_masks_and_stay(self, criterion: str, granularity: str) -> None:
        model, data = make()
        result = sc.prune(model, **options(model, data, criterion, granularity))
        for name, mask in result.plan.masks.items():
            weight = model.get_parameter(name)
            assert (weight[~mask] == 0).all()
            assert (weight[mask] != 0).any()
        kept = sum(int(mask.sum()) for mask in result.plan.masks.values())
        exact = sc.prune(make()[0], **options(model, data, "magnitude", granularity))
        if granularity != "vector:2":
            assert kept == sum(int(mask.sum()) for mask in exact.plan.masks.values())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for x, y in data[:2]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        for name, mask in result.plan.masks.items():
            assert (model.get_parameter(name)[~mask] == 0).all()

    def test_the_same_again(self, criterion: str, granularity: str) -> None:
        first, second = make()[0], make()[0]
        data = make()[1]
        one = sc.prune(first, **options(first, data, criterion, granularity))
        two = sc.prune(second, **options(second, data, criterion, granularity))
        assert one.plan == two.plan
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("criterion", STRUCTURED)
class TestStructured:
    def test_the_update_brings_the_output_back(self, criterion: str) -> None:
        dense, data = make()
        errors = {}
        for update in (False, True):
            model = copy.deepcopy(dense)
            result = sc.prune(
                model, data[0][0][:2], criterion=f"{criterion}:update={update}",
                budget={"macs": 0.6}, data=data,
            )  # fmt: skip
            assert result.error is not None and result.error < 1e-4
            assert result.after.macs <= 0.6 * result.before.macs
            errors[update] = output_error(model, dense, data)
        # WoodFisher is after the loss, and moves only neighbours of what went.
        assert errors[True] < errors[False] or criterion == "woodfisher"

    def test_what_was_cut_trains_and_is_saved(self, criterion: str, tmp_path: Any) -> None:
        model, data = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        nn.functional.cross_entropy(model(data[0][0]), data[0][1]).backward()
        optimizer.step()
        sc.prune(
            model, data[0][0][:2], criterion=criterion, budget={"macs": 0.6}, data=data,
            optimizer=optimizer,
        )  # fmt: skip
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0][0]), data[0][1]).backward()
        optimizer.step()
        sc.save(model, tmp_path / "small.safetensors")
        again = sc.load(make()[0], tmp_path / "small.safetensors").eval()
        assert torch.equal(again(data[0][0]), model.eval()(data[0][0]))


def test_obs_scores_are_the_closed_form() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4))
    data = [(torch.randn(9, 5), None) for _ in range(3)]
    x = torch.cat([batch for batch, _ in data]).double()
    mean = x.T @ x / len(x)
    mean += 0.01 * mean.diagonal().mean() * torch.eye(5)
    expected = net[0].weight.double().square() / torch.linalg.inv(mean).diagonal()
    found = elements(net, "obs", data)["0.weight"]
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-8)


def test_woodfisher_scores_are_the_closed_form_in_blocks() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    data = [(torch.randn(6, 3).double(), torch.randint(2, (6,))) for _ in range(2)]
    rows = []
    for x, y in data:
        for one, label in zip(x, y, strict=True):
            net.zero_grad()
            nn.functional.cross_entropy(net(one[None]), label[None]).backward()
            rows.append(net[0].weight.grad.flatten().clone())
    gradients, weight = torch.stack(rows), net[0].weight.detach().flatten()
    expected = torch.zeros(6).double()
    for block in (slice(0, 4), slice(4, 6)):
        some = gradients[:, block]
        fisher = some.T @ some / len(some) + 1e-3 * torch.eye(some.shape[1])
        expected[block] = weight[block].square() / (2 * torch.linalg.inv(fisher).diagonal())
    found = elements(net, "woodfisher:block=4,damp=1e-3", data)["0.weight"]
    torch.testing.assert_close(found.double().flatten(), expected, rtol=1e-4, atol=1e-9)


def test_the_update_of_a_single_layer_is_obs_s() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    data = [(torch.randn(40, 8) @ torch.randn(8, 8), None) for _ in range(2)]
    old = layer.weight.detach().double().clone()
    result = sc.prune(
        layer, data[0][0], granularity="element", criterion="obs", allocation="uniform",
        budget={"sparsity": 0.5}, data=data, prune_outputs=True,
    )  # fmt: skip
    # A fifth of every batch decides whether the fit is taken.
    x = torch.cat([batch[:32] for batch, _ in data]).double()
    mean = x.T @ x / len(x)
    inverse = torch.linalg.inv(mean + 0.01 * mean.diagonal().mean() * torch.eye(8))
    for row, mask in enumerate(result.plan.masks["weight"]):
        gone = ~mask
        pull = torch.linalg.solve(inverse[gone][:, gone], old[row, gone])
        expected = old[row] - inverse[:, gone] @ pull
        np.testing.assert_allclose(
            layer.weight[row].detach().double(), expected * mask, rtol=1e-3, atol=1e-5
        )
    [refit] = result.refits
    assert refit.used
    assert refit.after < refit.before


def test_sparsegpt_is_no_worse_than_magnitude_layer_by_layer() -> None:
    dense, data = make()
    found = {}
    for criterion in ("magnitude", "sparsegpt"):
        model = copy.deepcopy(dense)
        sc.prune(model, **options(dense, data, criterion, "2:4"))
        found[criterion] = output_error(model, dense, make(1)[1])
    assert found["sparsegpt"] < found["magnitude"]


def test_thinet_takes_the_channels_that_cancel() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([1.0, 1.0, 2.0, 1.0]).view(4, 1, 1, 1)
        # Channels 0 and 1 cancel in every output.
        reads = torch.tensor([[0.2, -0.2, 1.0, 1.0], [0.3, -0.3, 1.0, 2.0]])
        net[1].weight[:] = reads[..., None, None]
    x = torch.randn(2, 1, 5, 5)
    before = net(x).detach()
    result = sc.prune(
        net, x, criterion="thinet:update=False", budget={"params": 0.5}, data=[(x, None)]
    )
    assert result.plan.removed["0.weight"][0] == [0, 1]
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)


def test_lasso_lets_a_channel_take_over_from_its_twin() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False))
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0]])[..., None, None]
        net[1].weight[:] = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])[..., None, None]
    data = [(torch.randn(8, 2, 6, 6), None) for _ in range(4)]
    before = net(data[0][0]).detach()
    result = sc.prune(
        net, data[0][0], criterion="lasso:ridge=1e-6", budget={"params": 0.7}, data=data
    )
    assert result.plan.removed["0.weight"][0] == [1]
    torch.testing.assert_close(net(data[0][0]), before, rtol=1e-3, atol=1e-3)
    [refit] = result.refits
    assert refit.name == "1.weight"
    assert refit.used
    assert refit.after < 1e-5 < refit.before


def test_the_fit_is_left_where_it_fails_on_what_was_held_out() -> None:
    torch.manual_seed(0)
    dense, _ = make()
    few = [(torch.randn(10, 3, 8, 8), None)]
    model = copy.deepcopy(dense)
    result = sc.prune(
        model, few[0][0], granularity="element", criterion="obs:damp=1e-4,positions=1",
        allocation="uniform", budget={"sparsity": 0.5}, data=few,
    )  # fmt: skip
    assert any(not refit.used for refit in result.refits)
    for refit in result.refits:
        if not refit.used:
            mask = result.plan.masks[refit.name]
            assert torch.equal(
                model.get_parameter(refit.name), dense.get_parameter(refit.name) * mask
            )


def test_data_that_determines_nothing_is_one_clear_error() -> None:
    model, _ = make()
    few = [(torch.randn(2, 3, 8, 8), None)]
    with clear_error(CriterionError, "more data", "damp"):
        sc.prune(model, **options(model, few, "obs:damp=1e-30", "element"))
    assert not sc.masks_of(model)


def test_masks_that_are_on_count_and_stay() -> None:
    model, data = make()
    sc.prune(model, **options(model, data, "magnitude", "element") | {"budget": {"sparsity": 0.3}})
    before = {name: mask.clone() for name, mask in sc.masks_of(model).items()}
    result = sc.prune(model, **options(model, data, "sparsegpt", "element"))
    for name, mask in result.plan.masks.items():
        assert not (mask & ~before[name]).any()
    kept = sum(int(mask.sum()) for mask in result.plan.masks.values())
    total = sum(mask.numel() for mask in result.plan.masks.values())
    assert abs(kept - 0.4 * total) <= len(result.plan.masks)


@pytest.mark.parametrize("criterion", [*SPARSE, *STRUCTURED])
@pytest.mark.parametrize("broken", ["empty", "nan", "none"])
def test_bad_data_leaves_the_model_alone(criterion: str, broken: str) -> None:
    model, data = make()
    before = {name: p.clone() for name, p in model.named_parameters()}
    bad = {
        "empty": [],
        "nan": [(torch.full_like(data[0][0], torch.nan), data[0][1])],
        "none": None,
    }[broken]
    granularity = "channel" if criterion in ("thinet", "lasso") else "element"
    with pytest.raises(sc.errors.SecateurError) as caught:
        sc.prune(
            model, data[0][0][:2], granularity=granularity, criterion=criterion, data=bad,
            budget={"macs": 0.6} if granularity == "channel" else {"sparsity": 0.5},
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_data_that_ends_early_leaves_the_model_alone() -> None:
    class Ends:
        """Gives all batches once, and none when read again."""

        def __init__(self, batches: list[Any]) -> None:
            self.batches = batches

        def __iter__(self) -> Iterator[Any]:
            given, self.batches = self.batches, []
            return iter(given)

    model, data = make()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(InputError, match="no batch"):
        sc.prune(model, **options(model, data, "obs", "element") | {"data": Ends(data)})
    assert not sc.masks_of(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("criterion", ["thinet", "lasso"])
def test_inputs_of_a_layer_are_no_parts_of_weights(criterion: str) -> None:
    model, data = make()
    with clear_error(InputError, "whole channels"):
        sc.prune(model, **options(model, data, criterion, "element"))


@pytest.mark.parametrize(
    "criterion",
    ["obs:damp=0", "sparsegpt:block=0", "woodfisher:damp=-1", "thinet:ridge=0", "obs:positions=0"],
)
def test_options_that_mean_nothing(criterion: str) -> None:
    with clear_error(InputError, "must be"):
        score(criterion)


@pytest.mark.parametrize("criterion", LAYERWISE)
def test_a_channel_s_score_streams(criterion: str) -> None:
    """The same data in other batches gives the same scores."""
    net = make_net(dtype=torch.float64)
    data = make_data(dtype=torch.float64)
    both = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    np.testing.assert_allclose(
        score(criterion, net, data=data).values, score(criterion, net, data=both).values, rtol=1e-8
    )


def test_a_layer_under_two_names_is_one_layer_afterwards() -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    weight = layer.weight
    score_with = [(torch.randn(4, 8), None)]
    sc.prune(
        model, score_with[0][0], granularity="element", criterion="wanda",
        budget={"sparsity": 0.5}, data=score_with,
    )  # fmt: skip
    assert layer.weight is weight
    assert dict(model.named_parameters()).keys() == {"0.weight", "0.bias"}


def test_tied_weights_are_fitted_once() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    data = [(torch.randn(32, 8), None) for _ in range(3)]
    result = sc.prune(
        model, data[0][0], granularity="element", criterion="obs", budget={"sparsity": 0.5},
        data=data,
    )  # fmt: skip
    assert [refit.name for refit in result.refits] == ["0.weight"]
    assert model[0].weight is model[2].weight
    assert int((layer.weight == 0).sum()) == 32


def test_buffers_and_modes_of_the_model_are_left_alone() -> None:
    model, data = make()
    model.train()
    before = copy.deepcopy(dict(model.named_buffers()))
    sc.prune(model, **options(model, data, "sparsegpt", "element"))
    assert model.training
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize("granularity", ["element", "channel"])
def test_progress_is_told_batch_by_batch_and_layer_by_layer(granularity: str) -> None:
    model, data = make()
    told: list[tuple[int, int | None, str]] = []
    sc.prune(
        model, data[0][0][:2], granularity=granularity, criterion="obs", data=data,
        budget={"macs": 0.6} if granularity == "channel" else {"sparsity": 0.5},
        progress=lambda done, total, what: told.append((done, total, what)),
    )  # fmt: skip
    assert [entry for entry in told if entry[2] == "scoring"] == [
        (1, 2, "scoring"), (2, 2, "scoring"),
    ]  # fmt: skip
    fitting = [(done, total) for done, total, what in told if what == "fitting what survives"]
    assert fitting == [(at, len(fitting)) for at in range(1, len(fitting) + 1)]
    assert len(fitting) > 2
