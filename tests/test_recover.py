from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from secateur.errors import InputError, UnknownNameError
from secateur.models import SmallResNet
from secateur.recover import accuracy, evaluate, recalibrate_batchnorm, recover


def blobs(count: int = 128, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two classes that a line tells apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    inputs = torch.randn(count, 4, generator=generator) + 3 * labels[:, None]
    return [(inputs[i : i + 32], labels[i : i + 32]) for i in range(0, count, 32)]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Conv2d(4, 2, 3))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_training_learns_and_tells_how(optimizer: str, schedule: str) -> None:
    model, lines = small(), []
    history = recover(
        model,
        blobs(),
        epochs=12,
        lr=0.05,
        optimizer=optimizer,
        schedule=schedule,
        warmup=0.1,
        clip_norm=1.0,
        validation=blobs(seed=1),
        progress=lambda done, total, text: lines.append((done, total, text)),
    )
    assert accuracy(model, blobs(seed=2)) > 0.97
    assert history[-1].loss < history[0].loss
    assert history[-1].val_accuracy > 0.97
    assert [epoch.number for epoch in history] == list(range(1, 13))
    assert [done for done, _, _ in lines] == list(range(1, 49))
    assert {total for _, total, _ in lines} == {48}
    assert history.to_dict()["epochs"][0]["number"] == 1


def test_modes_generators_and_gradients_are_left_as_they_were() -> None:
    model = small().eval()
    model[1].train()
    before = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    recover(model, blobs(), epochs=1)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_seed_decides_the_dropout() -> None:
    runs = []
    for seed in (0, 0, 1):
        model = small()
        recover(model, blobs(), epochs=1, seed=seed)
        runs.append(model[0].weight.detach())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_frozen_parameters_stay_and_biases_do_not_decay() -> None:
    model = small()
    model[0].requires_grad_(False)
    before = state(model)
    zero = [(x * 0, y) for x, y in blobs()]
    recover(model, zero, lambda out, target: out.sum() * 0, epochs=2, lr=0.1, weight_decay=0.1)
    after = model.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(after["4.bias"], before["4.bias"])
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert float(after["4.weight"].norm()) < float(before["4.weight"].norm())


def test_the_cosine_falls_to_nearly_zero_after_the_warmup() -> None:
    rates: list[float] = []
    model = small()
    engine = torch.optim.SGD(model.parameters(), lr=1.0)
    recover(
        model,
        blobs(),
        lambda out, target: out.sum() * 0,
        epochs=10,
        optimizer=engine,
        warmup=0.25,
        progress=lambda *_: rates.append(engine.param_groups[0]["lr"]),
    )
    assert rates[:3] == pytest.approx([0.01, 0.1, 0.2])
    assert rates[10] == pytest.approx(1.0)
    assert rates[25] == pytest.approx(0.5)
    assert rates[-1] < 0.01
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert engine.param_groups[0]["lr"] == 1.0


def test_the_loss_of_an_epoch_weighs_every_example_alike() -> None:
    model = nn.Linear(1, 2)
    uneven = [(torch.zeros(3, 1), torch.zeros(3).long()), (torch.zeros(1, 1), torch.ones(1).long())]
    losses = iter([1.0, 5.0])
    history = recover(
        model, uneven, lambda out, target: out.sum() * 0 + next(losses), epochs=1, lr=1e-9
    )
    assert history[0].loss == pytest.approx(2.0)


def test_batches_without_a_length_and_dict_batches() -> None:
    class Unsized:
        def __iter__(self):
            return iter(blobs())

    history = recover(small(), Unsized(), epochs=2, lr=0.1)
    # The number of steps is known after one epoch.
    assert history[0].lr == pytest.approx(0.1)
    assert history[1].lr < 0.05

    class Dictionary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, x, labels=None):
            from types import SimpleNamespace

            logits = self.inner(x)
            loss = nn.functional.cross_entropy(logits, labels)
            return SimpleNamespace(loss=loss, logits=logits)

    batches = [{"x": x, "labels": y} for x, y in blobs()]
    model = Dictionary()
    recover(model, batches, epochs=5, lr=0.1)
    assert evaluate(model, batches).accuracy > 0.9


def test_regression_has_no_accuracy() -> None:
    batches = [(torch.randn(8, 4), torch.randn(8, 1))]
    loss = nn.functional.mse_loss
    assert evaluate(nn.Linear(4, 1), batches, loss).accuracy is None
    history = recover(nn.Linear(4, 1), batches, loss, epochs=1)
    assert history[0].accuracy is None
    with pytest.raises(InputError, match="integer targets"):
        accuracy(nn.Linear(4, 1), batches)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, InputError, "epochs"),
        ({"lr": 0.0}, InputError, "lr"),
        ({"lr": math.nan}, InputError, "lr"),
        ({"warmup": 2.0}, InputError, "warmup"),
        ({"schedule": "cosin"}, UnknownNameError, "did you mean 'cosine'"),
        ({"optimizer": "adamv"}, UnknownNameError, "did you mean 'adamw'"),
        ({"train_batches": []}, InputError, "no batches"),
        ({"train_batches": iter(())}, InputError, "generator"),
        ({"train_batches": [(torch.zeros(2, 5), torch.zeros(2).long())]}, InputError, "rejects"),
        ({"train_batches": [torch.zeros(2, 4)]}, InputError, "must be"),
        ({"loss": lambda out, target: out.sum() * math.nan}, InputError, "loss is nan"),
    ],
)
def test_bad_arguments_are_one_clear_error(options, error, message) -> None:
    model = small().eval()
    arguments = {"train_batches": blobs(), **options}
    with pytest.raises(error, match=message) as caught:
        recover(model, **arguments)
    assert "\n" not in str(caught.value)
    assert not any(module.training for module in model.modules())


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(InputError, match="requires_grad"):
        recover(small().requires_grad_(False), blobs())


def test_recalibration_moves_only_the_statistics() -> None:
    model = convolutional().eval()
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(8, 2, 7, 7, generator=generator) * 3 + 1 for _ in range(4)]
    before, momentum = state(model), model[1].momentum
    assert recalibrate_batchnorm(model, batches) == 4
    after = model.state_dict()
    for name, value in after.items():
        moved = "running" in name or "num_batches" in name
        assert torch.equal(value, before[name]) != moved, name
    outputs = [model[0](batch) for batch in batches]
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    var = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0)
    torch.testing.assert_close(after["1.running_mean"], mean)
    torch.testing.assert_close(after["1.running_var"], var)
    assert model[1].momentum == momentum
    assert not any(module.training for module in model.modules())


def test_recalibration_is_repeatable_because_dropout_stays_off() -> None:
    batches = [torch.randn(8, 2, 7, 7)]
    models = [nn.Sequential(convolutional(), nn.BatchNorm2d(2)) for _ in range(2)]
    for model in models:
        recalibrate_batchnorm(model, batches)
    assert torch.equal(models[0][1].running_mean, models[1][1].running_mean)


def test_recalibration_repairs_wrong_statistics() -> None:
    model = small()
    recover(model, blobs(), epochs=12, lr=0.05)
    good = evaluate(model, blobs(seed=1)).loss
    with torch.no_grad():
        model[1].running_mean.fill_(50.0)
    assert evaluate(model, blobs(seed=1)).loss > good + 0.5
    recalibrate_batchnorm(model, blobs())
    assert evaluate(model, blobs(seed=1)).loss < good + 0.05


def test_recalibration_reads_every_kind_of_batch_and_stops_when_told() -> None:
    model = small()
    pairs = blobs()
    recalibrate_batchnorm(model, pairs)
    expected = state(model)
    recalibrate_batchnorm(model, [x for x, _ in pairs])
    assert torch.equal(model[1].running_mean, expected["1.running_mean"])
    recalibrate_batchnorm(model, [{"input": x} for x, _ in pairs])
    assert torch.equal(model[1].running_mean, expected["1.running_mean"])
    assert recalibrate_batchnorm(model, pairs, max_batches=2) == 2


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no batches"),
        ([torch.zeros(1, 2, 3, 3)], "at least 2 examples"),
        ([torch.zeros(4, 9, 7, 7)], "rejects"),
    ],
)
def test_a_failed_recalibration_leaves_the_model_as_it_was(batches, message) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    recalibrate_batchnorm(model, [torch.randn(4, 2, 5, 5)])
    before = state(model)
    with pytest.raises(InputError, match=message):
        recalibrate_batchnorm(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.1 and model[1].training


def test_a_norm_that_no_batch_reaches_keeps_its_statistics() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.used(x)

    model = Partly()
    model.unused.running_mean.fill_(7.0)
    recalibrate_batchnorm(model, [torch.randn(8, 4)])
    assert model.unused.running_mean.tolist() == [7.0] * 4
    assert int(model.used.num_batches_tracked) == 1


def test_models_without_running_statistics_have_nothing_to_recalibrate() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False))
    before = copy.deepcopy(model.state_dict())
    assert recalibrate_batchnorm(model, blobs()) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_evaluation_without_batches_is_an_error() -> None:
    with pytest.raises(InputError, match="no batches"):
        evaluate(small(), [])


def test_the_small_resnet_refuses_an_empty_shape() -> None:
    with pytest.raises(InputError):
        SmallResNet(widths=())
    assert SmallResNet(widths=(4, 8), blocks=1)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
