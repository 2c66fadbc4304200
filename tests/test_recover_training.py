"""Masks, averages, accumulation, early stopping and layouts in `recover`."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from recovering import images, losses, net, same, state
from secateur.errors import InputError
from secateur.recover import Score
from secateur.recover.averaging import Average
from secateur.recover.stopping import Best


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "own"])
def test_masked_weights_stay_zero_and_others_move(optimizer, accumulate, ema) -> None:
    model, batches = net(), images()
    engine = optimizer
    if optimizer == "own":
        engine = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        # Velocity from before the mask, which would move masked weights.
        for x, y in batches:
            engine.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            engine.step()
    sc.prune(model, batches[0][0], granularity="element", budget={"sparsity": 0.6})
    masks = sc.masks_of(model)
    before = state(model)
    sc.recover(
        model, batches, epochs=3, lr=0.05, optimizer=engine, weight_decay=0.1,
        accumulate=accumulate, ema=ema, clip_norm=1.0, validation=batches, patience=2,
    )  # fmt: skip
    assert masks and sc.masks_of(model).keys() == masks.keys()
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert torch.equal(sc.masks_of(model)[name], mask)
        assert torch.count_nonzero(weight[~mask]) == 0
        assert not torch.equal(weight[mask], before[name][mask])


def test_masked_training_is_dense_training_with_masks_by_hand() -> None:
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    batches = [(torch.randn(5, 6), torch.arange(5) % 4) for _ in range(3)]
    mask = torch.rand(4, 6) > 0.5
    sc.apply_masks(model, {"0.weight": mask})
    weight = model[0].weight.detach().double().clone()
    sc.recover(
        model.double(), [(x.double(), y) for x, y in batches], epochs=2, lr=0.1, weight_decay=0.01,
        schedule="constant",
    )  # fmt: skip
    velocity = torch.zeros_like(weight)
    for x, y in batches * 2:
        scores = (x.double() @ weight.T).softmax(1)
        scores[torch.arange(5), y] -= 1
        gradient = (scores.T @ x.double() / 5 + 0 * weight) * mask + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight = (weight - 0.1 * (gradient + 0.9 * velocity)) * mask
    torch.testing.assert_close(model[0].weight.detach(), weight)


def test_accumulated_steps_are_those_of_the_large_batch() -> None:
    def train(batches, accumulate):
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator).double())
        steps: list[int] = []
        history = sc.recover(
            model, batches, epochs=2, lr=0.1, accumulate=accumulate, clip_norm=1.0,
            progress=lambda done, total, text: steps.append(total),
        )  # fmt: skip
        return model, history, steps

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(22, 6, generator=generator).double()
    y = torch.arange(22) % 4
    # Groups of three batches; the last one has two, of which one is smaller.
    small = [(x[i : i + 3], y[i : i + 3]) for i in range(0, 22, 3)]
    large = [(x[i : i + 9], y[i : i + 9]) for i in range(0, 22, 9)]
    small[-1:] = [(x[21:], y[21:])]
    ours, our_history, our_steps = train(small, 3)
    theirs, their_history, their_steps = train(large, 1)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert our_steps == their_steps == [6] * 6
    assert our_history[-1].lr == their_history[-1].lr
    assert our_history[-1].loss == pytest.approx(their_history[-1].loss)


def test_the_average_is_the_recurrence_over_the_steps_and_is_what_remains() -> None:
    model = net()
    seen: list[dict[str, torch.Tensor]] = []
    decay = 0.6
    expected = {name: value.double() for name, value in state(model).items()}
    history = sc.recover(
        model, images(), epochs=3, lr=0.1, ema=decay, recalibrate=False,
        validation=images(seed=1),
        progress=lambda *_: seen.append(state(model)),
    )  # fmt: skip
    for t, now in enumerate(seen, start=1):
        d = min(decay, (1 + t) / (10 + t))
        for name, value in now.items():
            expected[name] = d * expected[name] + (1 - d) * value.double()
    assert len(seen) == 12
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(value, seen[-1][name])
        else:
            assert torch.equal(value, seen[-1][name])
    # Evaluation sees the averaged weights, too.
    score = sc.evaluate(model, images(seed=1))
    assert (score.loss, score.accuracy) == (history[-1].val_loss, history[-1].val_accuracy)


def test_averages_do_not_change_the_training_itself() -> None:
    """Also not through validation and recalibration, which run on the averaged weights."""
    paths = []
    for ema in (None, 0.9):
        model, seen = net(), []
        sc.recover(
            model, images(), epochs=2, lr=0.1, ema=ema, validation=images(seed=1),
            progress=lambda *_, model=model, seen=seen: seen.append(state(model)),
        )  # fmt: skip
        paths.append(seen)
    assert all(same(one, other) for one, other in zip(*paths, strict=True))


def test_an_average_of_half_precision_keeps_small_steps() -> None:
    model = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = Average(model, 0.999)
    average.steps = 10**6
    for _ in range(300):
        with torch.no_grad():
            model.weight.fill_(2.0)
        average.update()
    average.take()
    # A thousandth of a step is less than bfloat16 can add to 1.
    assert model.weight.item() == pytest.approx(2 - 0.999**300, abs=0.01)


def test_recalibration_gives_the_statistics_of_the_weights_as_they_are() -> None:
    model = net()
    with torch.no_grad():
        model[1].running_mean.fill_(50.0)
        model[3].norm.running_var.fill_(1e4)
    start = copy.deepcopy(model)
    first: list[torch.Tensor] = []
    hook = model[1].register_forward_pre_hook(
        lambda module, args: first.append(module.running_mean.clone()) if module.training else None
    )
    sc.recover(model, images(), epochs=1, lr=1e-12, schedule="constant", weight_decay=0.0)
    hook.remove()
    # First the passes of the recalibration, then those of training, which start from its result.
    expected = copy.deepcopy(start)
    sc.recalibrate_batchnorm(expected, images())
    assert len(first) == 8
    torch.testing.assert_close(first[4], expected[1].running_mean)
    off = copy.deepcopy(start)
    sc.recover(off, images(), epochs=1, lr=1e-12, recalibrate=False)
    assert off[1].running_mean.mean() > 20 > model[1].running_mean.mean()

    few = copy.deepcopy(start)
    calls: list[int] = []
    few[1].register_forward_pre_hook(lambda *_: calls.append(1))
    sc.recover(few, images(), epochs=1, recalibrate=2)
    assert len(calls) == 2 + 4


def test_averaged_weights_are_returned_with_statistics_of_their_own() -> None:
    for validation in (None, images(seed=1)):
        model = net()
        sc.recover(model, images(), epochs=2, lr=0.1, ema=0.9, validation=validation)
        expected = copy.deepcopy(model)
        sc.recalibrate_batchnorm(expected, images())
        torch.testing.assert_close(model[1].running_var, expected[1].running_var)
        torch.testing.assert_close(model[3].norm.running_mean, expected[3].norm.running_mean)


def test_an_iterator_is_trained_on_whole_and_not_recalibrated_from() -> None:
    model = net()
    history = sc.recover(model, iter(images()), epochs=1)
    assert len(history) == 1 and int(model[1].num_batches_tracked) == 4
    with pytest.raises(InputError, match="recalibrate=False"):
        sc.recover(model, iter(images()), epochs=1, recalibrate=2)


def test_early_stopping_gives_the_best_weights_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    # Training walks upwards by 1 an epoch; the validation loss is least where the weight is 3.
    upwards = [(torch.ones(1, 1), torch.zeros(1, 1))]
    engine = torch.optim.SGD(model.parameters(), lr=1.0)

    def loss(output, target):
        return -output.sum() if torch.is_grad_enabled() else (output - 3).abs().sum()

    history = sc.recover(
        model, upwards, loss, epochs=20, optimizer=engine, schedule="constant",
        validation=upwards, patience=2,
    )  # fmt: skip
    assert [epoch.val_loss for epoch in history] == [2, 1, 0, 1, 2]
    assert history.best == 3 and history.to_dict()["best"] == 3
    assert model.weight.item() == 3.0


def test_early_stopping_goes_by_accuracy_and_then_by_loss() -> None:
    model = nn.Linear(1, 1)
    best = Best(model, patience=9)
    for epoch, loss in enumerate([math.nan, 2.0, math.nan, 1.0, math.nan], 1):
        best.see(epoch, Score(loss, None, 10))
    assert best.epoch == 4
    best = Best(model, patience=2)
    for epoch, (loss, hits) in enumerate([(1.0, 0.5), (9.0, 0.6), (8.0, 0.6), (0.1, 0.5)], 1):
        with torch.no_grad():
            model.bias.fill_(epoch)
        best.see(epoch, Score(loss, hits, 10))
        assert not best.exhausted
    best.see(5, Score(math.nan, 0.6, 10))
    assert best.exhausted and best.epoch == 3
    best.restore()
    assert model.bias.item() == 3.0


def test_bfloat16_and_channels_last_train_as_well_and_leave_the_model_as_it_was() -> None:
    plain = sc.recover(net(), images(), epochs=4, lr=0.05)
    for options in ({"autocast": True}, {"channels_last": True}):
        model = net()
        dtypes = []
        hook = model[0].register_forward_hook(
            lambda module, args, output, dtypes=dtypes: (
                dtypes.append(
                    (output.dtype, output.is_contiguous(memory_format=torch.channels_last))
                )
                if module.training
                else None
            )
        )
        before = [parameter.stride() for parameter in model.parameters()]
        history = sc.recover(model, images(), epochs=4, lr=0.05, recalibrate=False, **options)
        hook.remove()
        assert [parameter.stride() for parameter in model.parameters()] == before
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        half = torch.bfloat16 if "autocast" in options else torch.float32
        assert set(dtypes) == {(half, "channels_last" in options)}
        assert history[-1].loss == pytest.approx(plain[-1].loss, rel=0.1)


def test_masks_hold_in_channels_last_too() -> None:
    model = net()
    sc.prune(model, images()[0][0], granularity="element", budget={"sparsity": 0.5})
    sc.recover(model, images(), epochs=2, lr=0.05, channels_last=True, ema=0.9)
    for name, mask in sc.masks_of(model).items():
        assert torch.count_nonzero(model.get_parameter(name)[~mask]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate"),
        ({"ema": 1.0}, "ema"),
        ({"patience": 0, "validation": images()}, "patience"),
        ({"patience": 2}, "needs validation"),
        ({"recalibrate": 0}, "number of batches"),
        ({"recalibrate": -1}, "number of batches"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"distill": {"alpha": 0.5}}, "needs teacher"),
        ({"train_batches": [(torch.zeros(2, 9, 6, 6), torch.zeros(2).long())]}, "rejects"),
        ({"loss": lambda out, target: out.sum() * math.nan}, "loss is nan"),
    ],
)
def test_bad_arguments_leave_the_model_bit_for_bit(options, message) -> None:
    model = net()
    before = state(model)
    with pytest.raises(InputError, match=message) as caught:
        sc.recover(model, **{"train_batches": images(), **options})
    assert "\n" not in str(caught.value)
    assert same(state(model), before)


def test_python_and_numpy_are_seeded_inside_and_restored() -> None:
    class Augmented:
        def __len__(self) -> int:
            return 4

        def __iter__(self):
            for x, y in images():
                yield x * random.uniform(0.5, 1.5) + np.random.normal(), y  # noqa: NPY002

    runs = []
    for _ in range(2):
        random.random()
        np.random.normal()  # noqa: NPY002
        before = random.getstate()
        runs.append(losses(sc.recover(net(), Augmented(), epochs=2)))
        assert random.getstate() == before
    assert runs[0] == runs[1]
