"""Criteria that read data: batches, losses, gradients, progress."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from tests.hand_graph import (
    OPEN,
    WIDE,
    Labelled,
    Net,
    labelled_graph,
    make_data,
    make_net,
    score,
)
from torch import Tensor, nn

from secateur.criteria import (
    score_classes,
)
from secateur.criteria.gradients import stream_gradients
from secateur.observing.batches import batch_loss


def test_dict_batches_use_the_models_own_loss() -> None:
    dicts = [{"pixels": x, "labels": y} for x, y in make_data()]
    own = score_classes(labelled_graph(), Labelled(), "taylor", data=dicts)
    np.testing.assert_allclose(own.values, score("taylor").values, rtol=1e-6)
    doubled = score_classes(
        labelled_graph(),
        Labelled(),
        "taylor",
        data=dicts,
        loss=lambda outputs, batch: (
            2 * nn.functional.cross_entropy(outputs["logits"], batch["labels"])
        ),
    )
    np.testing.assert_allclose(doubled.values, 4 * own.values, rtol=1e-5)


def test_inputs_of_a_batch_may_be_keywords() -> None:
    data = [({"pixels": x}, y) for x, y in make_data()]
    scores = score_classes(labelled_graph(), Labelled(), "taylor", data=data)
    np.testing.assert_allclose(scores.values, score("taylor").values, rtol=1e-6)


def test_the_outputs_own_loss_comes_first() -> None:
    own = torch.tensor(2.0, requires_grad=True)
    outputs = {"logits": torch.zeros(2, 4, requires_grad=True), "loss": own}
    assert batch_loss(outputs, torch.tensor([0, 1]), None) == own


def test_a_loss_of_ones_own() -> None:
    data = [(x, torch.zeros(len(x), 4)) for x, _ in make_data()]
    scores = score("taylor", data=data, loss=nn.functional.mse_loss)
    assert (scores.values[:WIDE] > 0).all()


def test_data_is_streamed_and_progress_told() -> None:
    told: list[tuple[int, int | None]] = []
    made = 0

    def batches() -> Any:
        nonlocal made
        for batch in make_data(4):
            assert len(told) == made
            made += 1
            yield batch

    score("taylor", data=batches(), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, None), (2, None), (3, None), (4, None)]
    told.clear()
    score("taylor:max_batches=2", data=make_data(4), progress=lambda *pair: told.append(pair))
    assert told == [(1, 2), (2, 2)]


def test_max_batches_takes_the_first() -> None:
    few = score("taylor:max_batches=2", data=make_data(4)).values
    assert (few == score("taylor", data=make_data(2)).values).all()


def test_gradients_are_taken_in_eval_mode() -> None:
    assert (
        score("taylor", make_net().train()).values == score("taylor", make_net().eval()).values
    ).all()


def test_parameters_that_the_loss_ignores_score_zero() -> None:
    class Spare(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.bn1(self.conv1(x)))
            return x.mean(dim=(2, 3))[:, :4]

    torch.manual_seed(0)
    scores = score("taylor", Spare())
    assert scores.judged[WIDE:OPEN].all()
    assert (scores.values[WIDE:OPEN] == 0).all()
    assert (scores.values[:4] > 0).all()


@pytest.mark.parametrize(
    "logits, targets",
    [((5, 4), (5,)), ((5, 4, 3, 3), (5, 3, 3)), ((5, 7, 4), (5, 7))],
)
def test_the_default_loss_is_cross_entropy(
    logits: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    scores, wanted = torch.randn(logits, requires_grad=True), torch.randint(4, targets)
    classes_last = scores if logits[-1] == 4 else scores.movedim(1, -1)
    expected = -classes_last.log_softmax(-1).gather(-1, wanted[..., None]).mean()
    assert torch.allclose(batch_loss(scores, wanted, None), expected)


def test_only_one_gradient_is_alive_at_a_time() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def receive(name: str, weight: Tensor, gradient: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(gradient))
        most = max(most, sum(ref() is not None for ref in alive))

    net = make_net()
    names = [name for name, _ in net.named_parameters()]
    batches = stream_gradients(net, names, make_data(3), receive, after_batch=lambda: None)
    assert (batches, len(alive), most) == (3, 3 * len(names), 1)
